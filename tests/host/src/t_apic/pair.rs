// SPDX-License-Identifier: GPL-2.0

//! The I/O APIC and the local APICs together: a level interrupt is neither lost nor left waiting for an end that
//! cannot come.
//!
//! The machine here is what the module's is: senders look at identities and post beside a local APIC, whose owner
//! takes over later. What must hold is said without the chips' own registers but for remote IRR: where a vector is.

use super::*;
use crate::arch::addr::{AccessWidth, Gpa};
use crate::chipset::bus::{BusSignals, ChipBus, IOAPIC_BASE};
use crate::chipset::ioapic::Ioapic;
use crate::chipset::lapic::dest::matches;
use crate::chipset::lapic::ApicIdentity;
use crate::chipset::message::DestMode;
use crate::chipset::routing::GsiRouting;
use crate::chipset::saved::HasState;
use crate::chipset::DestFormat;
use crate::chipset::{ApicMessage, DeliveryMode, PinLevel};
use proptest::collection::vec;
use proptest::prelude::*;

const CPUS: usize = 2;
const PINS: [usize; 3] = [16, 17, 18];
/// Two pins share a vector.
const VECTORS: [u8; 3] = [0x51, 0x62, 0x62];
const REMOTE_IRR: u64 = 1 << 14;
const LEVEL: u64 = 1 << 15;
const MASKED: u64 = 1 << 16;
const LOWEST: u64 = 1 << 8;
const LOGICAL: u64 = 1 << 11;

/// A local APIC with what is posted beside it.
struct Cpu {
    lapic: Lapic,
    identity: ApicIdentity,
    edge: [u64; 4],
    level: [u64; 4],
}

struct Machine {
    bus: ChipBus,
    cpus: Vec<Cpu>,
}

/// Returns whether a set of posted vectors has this one.
fn has(set: &[u64; 4], vector: u8) -> bool {
    set[usize::from(vector >> 6)] >> (vector & 63) & 1 != 0
}

impl Machine {
    fn new() -> Machine {
        let mut bus = ChipBus::default();
        bus.ioapic = Some(Ioapic::new(0, DestFormat::Narrow));
        bus.routing = GsiRouting::identity().unwrap();
        let cpu = |id| {
            let mut lapic = Lapic::new(id, id == 0);
            set(&mut lapic, reg::SVR, 0x1ff);
            set(&mut lapic, reg::LDR, 0x0100_0000 << id);
            Cpu { identity: lapic.identity(), lapic, edge: [0; 4], level: [0; 4] }
        };
        Machine { bus, cpus: (0..CPUS as u32).map(cpu).collect() }
    }

    /// Does something with the bus and sends what comes of it, as the holder of its lock does.
    fn with(&mut self, f: impl FnOnce(&mut ChipBus, &mut BusSignals)) {
        let mut out = BusSignals::new();
        f(&mut self.bus, &mut out);
        while let Some(sent) = self.bus.take_message(&mut out) {
            if self.send(&sent.message) == 0 {
                self.bus.not_accepted(sent);
            }
        }
    }

    fn send(&mut self, msg: &ApicMessage) -> usize {
        let most = if msg.delivery == DeliveryMode::LowestPriority { 1 } else { CPUS };
        let takers = self.cpus.iter_mut().filter(|c| matches(msg, &c.identity)).take(most);
        takers.map(|c| post(if msg.level { &mut c.level } else { &mut c.edge }, msg.vector)).count()
    }

    fn take_over(&mut self, cpu: usize) {
        let c = &mut self.cpus[cpu];
        let (edge, level) = (std::mem::take(&mut c.edge), std::mem::take(&mut c.level));
        let lost = merge_posted(&mut c.lapic, &edge, &level);
        for vector in (0..=255).filter(|&v| has(&lost, v)) {
            self.end(vector);
        }
    }

    fn end(&mut self, vector: u8) {
        self.with(|bus, out| {
            bus.eoi(vector, Ns(0), out);
        });
    }

    fn eoi(&mut self, cpu: usize) {
        if let Some(vector) = self.cpus[cpu].lapic.eoi() {
            self.end(vector);
        }
    }

    fn publish(&mut self, cpu: usize) {
        self.cpus[cpu].identity = self.cpus[cpu].lapic.identity();
        self.with(|bus, out| bus.retry(out));
    }

    fn write_entry(&mut self, pin: usize, dest: u64, low: u64) {
        for (index, value) in [(0x11, dest << 24), (0x10, low)] {
            self.with(|bus, out| {
                let select = index + 2 * pin as u64;
                assert!(bus.mmio_write(Gpa(IOAPIC_BASE), AccessWidth::B4, select, out));
                assert!(bus.mmio_write(Gpa(IOAPIC_BASE + 0x10), AccessWidth::B4, value, out));
            });
        }
    }

    fn entry(&self, pin: usize) -> u64 {
        self.bus.ioapic.as_ref().unwrap().save().redirtbl[pin]
    }

    /// Whether some local APIC holds or is sent `vector` in such a way that its end will be told.
    fn will_be_ended(&self, vector: u8) -> bool {
        self.cpus.iter().any(|c| {
            let page = c.lapic.clone().regs(crate::chipset::lapic::save::IdFormat::Xapic, Ns(0));
            let bit = |first: u32| {
                page[(first + (u32::from(vector) >> 5) * 16) as usize + usize::from(vector >> 3 & 3)]
                    >> (vector & 7)
                    & 1
                    != 0
            };
            has(&c.level, vector) || bit(reg::TMR) && (bit(reg::IRR) || bit(reg::ISR))
        })
    }

    /// What must be so between any two operations, from the line and the entry of each pin alone.
    fn check(&self, lines: u32) -> Result<(), TestCaseError> {
        for (pin, vector) in PINS.into_iter().zip(VECTORS) {
            let entry = self.entry(pin);
            let waits = entry & REMOTE_IRR != 0;
            prop_assert!(!waits || self.will_be_ended(vector), "pin {} waits for nothing", pin);
            let asks = lines >> pin & 1 != 0 && entry & LEVEL != 0 && entry & MASKED == 0;
            let message = self.bus.ioapic.as_ref().unwrap().message(pin).unwrap();
            let is_heard = self.cpus.iter().any(|c| matches(&message, &c.identity));
            prop_assert!(!asks || !is_heard || waits, "pin {} must send", pin);
        }
        Ok(())
    }
}

fn post(set: &mut [u64; 4], vector: u8) {
    set[usize::from(vector >> 6)] |= 1 << (vector & 63);
}

#[derive(Clone, Debug)]
enum Step {
    Line(usize, bool),
    Entry(usize, u64, u64),
    Edge(u8, usize),
    TakeOver(usize),
    Deliver(usize),
    Eoi(usize),
    Enable(usize, bool),
    Publish(usize),
    Priority(usize, u8),
    EoiRegister(usize),
}

fn any_step() -> impl Strategy<Value = Step> {
    let pin = || 0..PINS.len();
    let cpu = || 0..CPUS;
    let bits = proptest::sample::select(vec![0, MASKED, LOWEST, LOGICAL, LOWEST | LOGICAL]);
    let dest = proptest::sample::select(vec![0u64, 1, 2, 3, 0xff]);
    prop_oneof![
        6 => (pin(), any::<bool>()).prop_map(|(p, l)| Step::Line(p, l)),
        2 => (pin(), dest, bits).prop_map(|(p, d, b)| Step::Entry(p, d, b | LEVEL)),
        1 => (pin(), 0u64..2).prop_map(|(p, d)| Step::Entry(p, d, 0)),
        2 => (pin(), cpu()).prop_map(|(p, c)| Step::Edge(VECTORS[p], c)),
        4 => cpu().prop_map(Step::TakeOver),
        4 => cpu().prop_map(Step::Deliver),
        4 => cpu().prop_map(Step::Eoi),
        2 => (cpu(), any::<bool>()).prop_map(|(c, on)| Step::Enable(c, on)),
        2 => cpu().prop_map(Step::Publish),
        1 => (cpu(), any::<u8>()).prop_map(|(c, tpr)| Step::Priority(c, tpr)),
        1 => pin().prop_map(Step::EoiRegister),
    ]
}

fn run(m: &mut Machine, lines: &mut u32, step: &Step) {
    match *step {
        Step::Line(pin, high) => {
            let bit = 1 << PINS[pin];
            *lines = if high { *lines | bit } else { *lines & !bit };
            m.with(|bus, out| {
                bus.set_gsi(PINS[pin] as u32, PinLevel::from(high), out);
            });
        }
        Step::Entry(pin, dest, bits) => m.write_entry(PINS[pin], dest, bits | u64::from(VECTORS[pin])),
        Step::Edge(vector, cpu) => {
            let dest = cpu as u32;
            let (dest_mode, delivery) = (DestMode::Physical, DeliveryMode::Fixed);
            m.send(&ApicMessage { dest, dest_mode, delivery, vector, level: false });
        }
        Step::TakeOver(cpu) => m.take_over(cpu),
        Step::Deliver(cpu) => drop(deliver(&mut m.cpus[cpu].lapic)),
        Step::Eoi(cpu) => m.eoi(cpu),
        // Senders know of it only after the next step of that kind.
        Step::Enable(cpu, on) => set(&mut m.cpus[cpu].lapic, reg::SVR, if on { 0x1ff } else { 0xff }),
        Step::Publish(cpu) => m.publish(cpu),
        Step::Priority(cpu, tpr) => set(&mut m.cpus[cpu].lapic, reg::TPR, tpr.into()),
        Step::EoiRegister(pin) => {
            let value = u64::from(VECTORS[pin]);
            m.with(|bus, out| assert!(bus.mmio_write(Gpa(IOAPIC_BASE + 0x40), AccessWidth::B4, value, out)));
        }
    }
}

/// Lets all CPUs serve what waits, each handler quieting its devices. Returns the lines that are still high.
fn serve_all(m: &mut Machine, mut lines: u32) -> u32 {
    for cpu in 0..CPUS {
        for step in [Step::Enable(cpu, true), Step::Publish(cpu), Step::Priority(cpu, 0)] {
            run(m, &mut lines, &step);
        }
        while m.cpus[cpu].lapic.ppr() != 0 {
            m.eoi(cpu);
        }
    }
    for cpu in (0..CPUS).cycle().take(64) {
        m.take_over(cpu);
        let Some(vector) = deliver(&mut m.cpus[cpu].lapic) else { continue };
        for pin in (0..PINS.len()).filter(|&pin| VECTORS[pin] == vector) {
            run(m, &mut lines, &Step::Line(pin, false));
        }
        m.eoi(cpu);
    }
    lines
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_level_pin_sends_when_somebody_takes_it_and_waits_for_an_end_that_comes(
        steps in vec(any_step(), 0..120),
    ) {
        let (mut m, mut lines) = (Machine::new(), 0);
        for step in &steps {
            run(&mut m, &mut lines, step);
            m.check(lines)?;
        }

        let left = serve_all(&mut m, lines);

        m.check(left)?;
        for pin in PINS {
            prop_assert_eq!(m.entry(pin) & REMOTE_IRR, 0, "pin {} waits although all was ended", pin);
        }
    }
}

#[test]
fn a_level_vector_that_comes_to_an_apic_just_switched_off_is_sent_to_another() {
    let mut m = Machine::new();
    m.write_entry(PINS[0], 0xff, LEVEL | LOWEST | LOGICAL | u64::from(VECTORS[0]));
    m.cpus[0].lapic.set_base(BASE | BSP, reserved()).unwrap();
    let mut lines = 0;
    run(&mut m, &mut lines, &Step::Line(0, true));
    assert!(has(&m.cpus[0].level, VECTORS[0]), "its identity says that it is there");

    m.publish(0);
    m.take_over(0);

    assert!(has(&m.cpus[1].level, VECTORS[0]));
}
