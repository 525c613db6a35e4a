// SPDX-License-Identifier: GPL-2.0

//! A vCPU's registers: the state after reset, and that what is set is what is got.

use crate::abi::nr;
use crate::guest::{Guest, HLT};
use crate::harness::{refused, skip, Ctx, Test};
use crate::raw::{self, ioctl, ioctl_with};
use kvm_bindings::*;
use kvm_ioctls::VcpuFd;
use libc::{EINVAL, ENOTTY};

pub const TESTS: &[Test] = &[
    ("vcpu: an unknown ioctl is refused", unknown_ioctl),
    ("vcpu: run takes no argument", run_argument),
    ("vcpu: starts at the reset vector", reset_state),
    ("vcpu: general registers keep their values", regs),
    ("vcpu: special registers keep their values", sregs),
    ("vcpu: impossible special registers are refused", bad_sregs),
    ("vcpu: cpuid keeps its list", cpuid),
    ("vcpu: msrs keep their values", msrs),
    ("vcpu: msrs are done up to the first that is unknown", unknown_msr),
    ("vcpu: every listed msr can be read and written back", listed_msrs),
    ("vcpu: floating point registers keep their values", fpu),
    ("vcpu: the xsave area keeps its values and shows the floating point registers", xsave),
    ("vcpu: an impossible xsave area is refused", bad_xsave),
    ("vcpu: bits of mxcsr that the processor lacks are refused in the xsave area", mxcsr_bits),
    ("vcpu: mxcsr is not one of the floating point registers", mxcsr_of_fpu),
    ("vcpu: xcr0 keeps its value and refuses nonsense", xcrs),
    ("vcpu: events keep their values", events),
    ("vcpu: debug registers keep their values", debugregs),
    ("vcpu: the first vcpu is runnable", mp_state),
    ("vcpu: events that wait for their delivery keep their values", injected_events),
    ("vcpu: states of start-up are for vcpus with a local apic", mp_states),
    ("vcpu: registers of the local apic keep their values", lapic_registers),
    ("vcpu: a local apic is there only with interrupt controllers", lapic),
];

fn unknown_ioctl(c: &Ctx) {
    let (_vm, vcpu) = c.vcpu();

    refused(ioctl(&vcpu, 0xaeff, 0), &[ENOTTY, EINVAL]);
}

fn run_argument(c: &Ctx) {
    let (_vm, vcpu) = c.vcpu();

    refused(ioctl(&vcpu, nr::RUN, 1), &[EINVAL]);
}

fn reset_state(c: &Ctx) {
    let (_vm, vcpu) = c.vcpu();
    let (r, s) = (vcpu.get_regs().unwrap(), vcpu.get_sregs().unwrap());

    assert_eq!((r.rip, r.rflags), (0xfff0, 2));
    assert_eq!((s.cs.selector, s.cs.base, s.cs.limit), (0xf000, 0xffff_0000, 0xffff));
    assert_eq!(s.cr0 & !0x6000_0000, 0x10, "real mode");
    assert_eq!((s.cr3, s.cr4, s.efer), (0, 0, 0));
    assert_eq!((s.idt.base, s.idt.limit), (0, 0xffff));
    assert_eq!((s.ds.selector, s.ds.base, s.ds.limit, s.ds.present), (0, 0, 0xffff, 1));
}

fn regs(c: &Ctx) {
    let (_vm, vcpu) = c.vcpu();
    let mut r = vcpu.get_regs().unwrap();
    (r.rax, r.rbx, r.rcx, r.rdx) = (1, 0x8000_0000_0000_0002, 3, u64::MAX);
    (r.rsi, r.rdi, r.rsp, r.rbp) = (5, 6, 7, 8);
    (r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15) = (9, 10, 11, 12, 13, 14, 15, 16);
    (r.rip, r.rflags) = (0x1234, 0x202);

    vcpu.set_regs(&r).unwrap();

    assert_eq!(vcpu.get_regs().unwrap(), r);
}

fn sregs(c: &Ctx) {
    let (_vm, vcpu) = c.vcpu();
    vcpu.set_cpuid2(&c.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap()).unwrap();
    let mut s = vcpu.get_sregs().unwrap();
    (s.cr0, s.cr2, s.cr3, s.cr4, s.efer) = (0x8005_0033, 0xdead_beef, 0x5000, 0x6a0, 0x501);
    s.cs = kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: 8,
        type_: 11,
        present: 1,
        s: 1,
        l: 1,
        g: 1,
        ..s.cs
    };
    s.fs.base = 0xffff_8000_0000_1000;
    s.gs.base = 0x7fff_ffff_f000;
    (s.gdt.base, s.gdt.limit, s.idt.base, s.idt.limit) = (0x1000, 0x7f, 0x2000, 0xfff);

    vcpu.set_sregs(&s).unwrap();
    let got = vcpu.get_sregs().unwrap();

    assert_eq!((got.cr0, got.cr2, got.cr3, got.cr4, got.efer), (s.cr0, s.cr2, s.cr3, s.cr4, s.efer));
    assert_eq!((got.cs, got.fs.base, got.gs.base), (s.cs, s.fs.base, s.gs.base));
    assert_eq!((got.gdt.base, got.gdt.limit), (s.gdt.base, s.gdt.limit));
    assert_eq!((got.idt.base, got.idt.limit), (s.idt.base, s.idt.limit));
}

fn bad_sregs(c: &Ctx) {
    let (_vm, vcpu) = c.vcpu();
    let good = vcpu.get_sregs().unwrap();
    let long_without_pae = kvm_sregs { cr0: 0x8000_0011, cr4: 0, efer: 0x500, ..good };
    let paging_without_protection = kvm_sregs { cr0: 0x8000_0010, ..good };
    let reserved_cr4 = kvm_sregs { cr4: 1 << 63, ..good };

    let bad = [
        ("long mode without PAE", long_without_pae),
        ("paging without protection", paging_without_protection),
        ("a reserved bit of CR4", reserved_cr4),
    ];
    for (what, sregs) in bad {
        assert_eq!(vcpu.set_sregs(&sregs).map_err(|e| e.errno()), Err(EINVAL), "{what}");
    }
}

fn cpuid(c: &Ctx) {
    let (_vm, vcpu) = c.vcpu();
    let list = c.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap();

    vcpu.set_cpuid2(&list).unwrap();
    let got = vcpu.get_cpuid2(KVM_MAX_CPUID_ENTRIES).unwrap();

    let key = |e: &kvm_cpuid_entry2| (e.function, e.index);
    assert_eq!(
        got.as_slice().iter().map(key).collect::<Vec<_>>(),
        list.as_slice().iter().map(key).collect::<Vec<_>>()
    );
}

const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const SYSENTER_CS: u32 = 0x174;
const PAT: u32 = 0x277;

fn entry(index: u32, data: u64) -> kvm_msr_entry {
    kvm_msr_entry { index, data, reserved: 0 }
}

fn msrs(c: &Ctx) {
    let (_vm, vcpu) = c.vcpu();
    vcpu.set_cpuid2(&c.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap()).unwrap();
    let wanted = [
        entry(STAR, 0x23_0010_0000_0000),
        entry(LSTAR, 0xffff_8000_1234_5678),
        entry(SYSENTER_CS, 0x10),
        entry(PAT, 0x0007_0406_0007_0406),
        entry(0x2ff, 0xc06),
        entry(0x200, 0xc000_0000),
    ];

    let set = vcpu.set_msrs(&Msrs::from_entries(&wanted).unwrap()).unwrap();
    let mut got = Msrs::from_entries(&wanted.map(|e| entry(e.index, 0))).unwrap();
    let read = vcpu.get_msrs(&mut got).unwrap();

    assert_eq!((set, read), (wanted.len(), wanted.len()));
    assert_eq!(got.as_slice(), wanted);
}

fn unknown_msr(c: &Ctx) {
    let (_vm, vcpu) = c.vcpu();
    let list = [entry(STAR, 7), entry(0x0bad_0bad, 0), entry(SYSENTER_CS, 9)];

    assert_eq!(vcpu.set_msrs(&Msrs::from_entries(&list).unwrap()).unwrap(), 1);
    assert_eq!(vcpu.get_msrs(&mut Msrs::from_entries(&list).unwrap()).unwrap(), 1);
}

fn listed_msrs(c: &Ctx) {
    let vm = c.vm();
    ioctl(&vm, nr::CREATE_IRQCHIP, 0).unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    vcpu.set_cpuid2(&c.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap()).unwrap();

    let list = c.kvm.get_msr_index_list().unwrap();
    let refused: Vec<String> = list
        .as_slice()
        .iter()
        .filter(|&&index| {
            let mut one = Msrs::from_entries(&[entry(index, 0)]).unwrap();
            vcpu.get_msrs(&mut one).unwrap() != 1 || vcpu.set_msrs(&one).unwrap() != 1
        })
        .map(|index| format!("{index:#x}"))
        .collect();

    assert!(refused.is_empty(), "{refused:?}");
}

fn fpu(c: &Ctx) {
    let (_vm, vcpu) = c.vcpu();
    let mut f = kvm_fpu { fcw: 0x37f, fsw: 0x100, ftwx: 0x81, ..Default::default() };
    f.fpr[0] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 0, 0, 0, 0, 0, 0];
    f.xmm[15] = [0xa5; 16];

    vcpu.set_fpu(&f).unwrap();
    let got = vcpu.get_fpu().unwrap();

    // MXCSR is left out: stock KVM does not take it from here.
    assert_eq!((got.fcw, got.fsw, got.fpr[0], got.xmm[15]), (f.fcw, f.fsw, f.fpr[0], f.xmm[15]));
}

/// Words of the XSAVE area: control word, MXCSR, XMM0, the bitmap of what is not in its initial state.
const FCW: usize = 0;
const MXCSR: usize = 6;
const XMM0: usize = 40;
const XSTATE_BV: usize = 128;

fn xsave(c: &Ctx) {
    let (_vm, vcpu) = c.vcpu();
    let mut area = vcpu.get_xsave().unwrap();
    area.region[FCW] = 0x27f;
    area.region[MXCSR] = 0x1fa0;
    area.region[XMM0..XMM0 + 4].fill(0x1111_1111);
    area.region[XSTATE_BV] |= 3;

    set_xsave(&vcpu, &mut area).unwrap();

    let got = vcpu.get_xsave().unwrap();
    assert_eq!((got.region[FCW] & 0xffff, got.region[MXCSR]), (0x27f, 0x1fa0));
    assert_eq!(got.region[XMM0..XMM0 + 4], [0x1111_1111; 4]);
    let f = vcpu.get_fpu().unwrap();
    assert_eq!((f.fcw, f.xmm[0]), (0x27f, [0x11; 16]));
}

fn bad_xsave(c: &Ctx) {
    let (_vm, vcpu) = c.vcpu();
    let good = vcpu.get_xsave().unwrap();

    // Reserved bits of MXCSR, components that no processor has, and the compacted format.
    for (word, value) in [(MXCSR, 1 << 31), (XSTATE_BV + 1, 1 << 29), (XSTATE_BV + 3, 1 << 31)] {
        let mut bad = vcpu.get_xsave().unwrap();
        bad.region[XSTATE_BV] |= 3;
        bad.region[word] |= value;
        assert_eq!(set_xsave(&vcpu, &mut bad), Err(EINVAL), "word {word}");
    }
    assert_eq!(vcpu.get_xsave().unwrap().region[..XSTATE_BV], good.region[..XSTATE_BV]);
}

/// The bits of MXCSR that this processor lacks; loading one of them faults.
fn absent_mxcsr_bits() -> impl Iterator<Item = u32> {
    let mask = raw::mxcsr_mask();
    (0..32).map(|bit| 1 << bit).filter(move |bit| mask & bit == 0)
}

fn mxcsr_bits(c: &Ctx) {
    let mut g = Guest::new(c, &[HLT]);
    let good = g.vcpu.get_xsave().unwrap();
    let with = |components: u32, bit: u32| {
        let mut area = g.vcpu.get_xsave().unwrap();
        area.region[XSTATE_BV] = components;
        area.region[MXCSR] = 0x1f80 | bit;
        set_xsave(&g.vcpu, &mut area)
    };

    for bit in absent_mxcsr_bits() {
        for components in [1, 2, 3] {
            assert_eq!(with(components, bit), Err(EINVAL), "{bit:#x} with components {components}");
        }
    }
    assert_eq!(g.vcpu.get_xsave().unwrap().region[..XSTATE_BV], good.region[..XSTATE_BV]);
    // Where all that it belongs to is initial, nobody looks at it.
    for bit in absent_mxcsr_bits() {
        assert_eq!(with(0, bit), Ok(0), "{bit:#x}");
    }
    g.hlt();
}

fn mxcsr_of_fpu(c: &Ctx) {
    let mut g = Guest::new(c, &[HLT]);
    let mut area = g.vcpu.get_xsave().unwrap();
    area.region[XSTATE_BV] |= 3;
    area.region[MXCSR] = 0x1fa0;
    set_xsave(&g.vcpu, &mut area).unwrap();

    for bit in absent_mxcsr_bits() {
        g.vcpu.set_fpu(&kvm_fpu { fcw: 0x37f, mxcsr: 0x1f80 | bit, ..Default::default() }).unwrap();
    }

    g.hlt();
    assert_eq!(g.vcpu.get_xsave().unwrap().region[MXCSR], 0x1fa0);
}

fn set_xsave(vcpu: &VcpuFd, area: &mut kvm_xsave) -> Result<i32, i32> {
    ioctl_with(vcpu, nr::SET_XSAVE, area)
}

fn xcrs(c: &Ctx) {
    if !c.kvm.check_extension(kvm_ioctls::Cap::Xcrs) {
        skip("no XSAVE");
    }
    let (_vm, vcpu) = c.vcpu();
    vcpu.set_cpuid2(&c.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap()).unwrap();
    let with = |value| {
        let mut x = kvm_xcrs { nr_xcrs: 1, ..Default::default() };
        x.xcrs[0].value = value;
        x
    };

    vcpu.set_xcrs(&with(3)).unwrap();

    assert_eq!(vcpu.get_xcrs().unwrap().xcrs[0].value, 3);
    for bad in [0, 2, 5, 1 << 62] {
        assert_eq!(vcpu.set_xcrs(&with(bad)).unwrap_err().errno(), EINVAL, "XCR0 {bad:#x}");
    }
}

fn events(c: &Ctx) {
    let (_vm, vcpu) = c.vcpu();
    let mut e = vcpu.get_vcpu_events().unwrap();
    assert_eq!((e.exception.injected, e.interrupt.injected, e.nmi.pending), (0, 0, 0));
    e.nmi.pending = 1;
    e.flags = KVM_VCPUEVENT_VALID_NMI_PENDING;

    vcpu.set_vcpu_events(&e).unwrap();

    assert_eq!(vcpu.get_vcpu_events().unwrap().nmi.pending, 1);
    e.flags = 1 << 31;
    assert_eq!(vcpu.set_vcpu_events(&e).unwrap_err().errno(), EINVAL);
}

fn debugregs(c: &Ctx) {
    let (_vm, vcpu) = c.vcpu();
    let d = kvm_debugregs { db: [1, 2, 3, 4], dr6: 0xffff_0ff0, dr7: 0x400, ..Default::default() };

    vcpu.set_debug_regs(&d).unwrap();

    let got = vcpu.get_debug_regs().unwrap();
    assert_eq!((got.db, got.dr6, got.dr7), (d.db, d.dr6, d.dr7));
    let flags = kvm_debugregs { flags: 1, ..d };
    assert_eq!(vcpu.set_debug_regs(&flags).unwrap_err().errno(), EINVAL);
}

fn mp_state(c: &Ctx) {
    let (_vm, vcpu) = c.vcpu();

    assert_eq!(vcpu.get_mp_state().unwrap().mp_state, KVM_MP_STATE_RUNNABLE);
    let bad = kvm_mp_state { mp_state: 77 };
    assert_eq!(vcpu.set_mp_state(bad).unwrap_err().errno(), EINVAL);
}

fn lapic(c: &Ctx) {
    let (_vm, vcpu) = c.vcpu();
    assert_eq!(vcpu.get_lapic().unwrap_err().errno(), EINVAL);

    let vm = c.vm();
    ioctl(&vm, nr::CREATE_IRQCHIP, 0).unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    let lapic = vcpu.get_lapic().unwrap();

    assert_eq!(lapic.regs[0x30] as u8 & 0xf0, 0x10, "an integrated APIC's version");
    vcpu.set_lapic(&lapic).unwrap();
    assert_eq!(vcpu.get_lapic().unwrap().regs[0x20..0x40], lapic.regs[0x20..0x40]);
}

fn injected_events(c: &Ctx) {
    let (_vm, vcpu) = c.vcpu();
    let mut e = vcpu.get_vcpu_events().unwrap();
    (e.interrupt.injected, e.interrupt.nr, e.interrupt.shadow) = (1, 0x30, KVM_X86_SHADOW_INT_STI as u8);
    e.nmi.masked = 1;
    e.flags = KVM_VCPUEVENT_VALID_SHADOW;
    vcpu.set_vcpu_events(&e).unwrap();
    let got = vcpu.get_vcpu_events().unwrap();
    assert_eq!((got.interrupt.injected, got.interrupt.nr, got.nmi.masked), (1, 0x30, 1));
    assert_ne!(got.interrupt.shadow, 0);

    let mut e = kvm_vcpu_events::default();
    (e.exception.injected, e.exception.nr, e.exception.has_error_code) = (1, 13, 1);
    e.exception.error_code = 0x18;
    vcpu.set_vcpu_events(&e).unwrap();
    let got = vcpu.get_vcpu_events().unwrap();
    assert_eq!((got.exception.injected, got.exception.nr, got.exception.error_code), (1, 13, 0x18));
    assert_eq!((got.interrupt.injected, got.nmi.masked), (0, 0));

    e.exception.nr = 2;
    assert_eq!(vcpu.set_vcpu_events(&e).unwrap_err().errno(), EINVAL, "an NMI is no exception");
}

fn mp_states(c: &Ctx) {
    let set = |vcpu: &VcpuFd, mp_state| vcpu.set_mp_state(kvm_mp_state { mp_state }).map_err(|e| e.errno());
    let (_vm, vcpu) = c.vcpu();
    for state in [KVM_MP_STATE_UNINITIALIZED, KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED] {
        assert_eq!(set(&vcpu, state), Err(EINVAL), "state {state} without a local APIC");
    }

    let vm = c.vm();
    ioctl(&vm, nr::CREATE_IRQCHIP, 0).unwrap();
    let (first, second) = (vm.create_vcpu(0).unwrap(), vm.create_vcpu(1).unwrap());
    assert_eq!(second.get_mp_state().unwrap().mp_state, KVM_MP_STATE_UNINITIALIZED);
    for vcpu in [&first, &second] {
        for state in [KVM_MP_STATE_HALTED, KVM_MP_STATE_INIT_RECEIVED, KVM_MP_STATE_RUNNABLE] {
            assert_eq!(set(vcpu, state), Ok(()));
            assert_eq!(vcpu.get_mp_state().unwrap().mp_state, state);
        }
    }
}

fn lapic_registers(c: &Ctx) {
    let vm = c.vm();
    ioctl(&vm, nr::CREATE_IRQCHIP, 0).unwrap();
    let vcpu = vm.create_vcpu(0).unwrap();
    vcpu.set_cpuid2(&c.kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).unwrap()).unwrap();
    // TPR, SVR, LVT timer, LINT0, LINT1, error, divide.
    let values = [
        (0x80, 0x30u32),
        (0xf0, 0x1ff),
        (0x320, 0x1_0020),
        (0x350, 0x1_0700),
        (0x360, 0x400),
        (0x370, 0x1_00fe),
        (0x3e0, 0xb),
    ];
    let mut lapic = vcpu.get_lapic().unwrap();
    for (at, value) in values {
        for (to, from) in lapic.regs[at..].iter_mut().zip(value.to_le_bytes()) {
            *to = from as _;
        }
    }

    vcpu.set_lapic(&lapic).unwrap();

    let got = vcpu.get_lapic().unwrap();
    for (at, value) in values {
        let bytes: [u8; 4] = std::array::from_fn(|i| got.regs[at + i] as u8);
        assert_eq!(u32::from_le_bytes(bytes), value, "register {at:#x}");
    }
    assert_eq!(vcpu.get_sregs().unwrap().cr8, 3, "the task priority shows in CR8");
}
