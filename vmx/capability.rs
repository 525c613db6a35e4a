// SPDX-License-Identifier: GPL-2.0

//! What the processor's VMX can do, and the controls that follow from it.
//!
//! SDM, "VMX Capability Reporting Facility". Each control register of the VMCS comes with an MSR of
//! two halves: a bit set in the low one must be 1 ("allowed 0-settings"), a bit clear in the high one
//! must be 0 ("allowed 1-settings"). Pure arithmetic: the MSRs' values come from the caller.

use crate::arch::cpuid::{signature, CpuidRegs, F1Ecx};
use crate::arch::cr::{Cr0, Rflags};
use bitflags::bitflags;

bitflags! {
    /// Pin-based VM-execution controls.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct PinControls: u32 {
        /// Physical interrupts exit.
        const EXTERNAL_INTERRUPT = 1 << 0;
        /// Physical NMIs exit.
        const NMI = 1 << 3;
        /// NMI blocking is the guest's own.
        const VIRTUAL_NMIS = 1 << 5;
        /// The preemption timer counts.
        const PREEMPTION_TIMER = 1 << 6;
    }

    /// Primary processor-based VM-execution controls.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct PrimaryControls: u32 {
        /// Exit as soon as the guest can take an interrupt.
        const INTERRUPT_WINDOW = 1 << 2;
        /// The TSC offset applies.
        const TSC_OFFSET = 1 << 3;
        /// HLT exits.
        const HLT = 1 << 7;
        /// INVLPG exits.
        const INVLPG = 1 << 9;
        /// MWAIT exits.
        const MWAIT = 1 << 10;
        /// RDPMC exits.
        const RDPMC = 1 << 11;
        /// RDTSC exits.
        const RDTSC = 1 << 12;
        /// MOV to CR3 exits.
        const CR3_LOAD = 1 << 15;
        /// MOV from CR3 exits.
        const CR3_STORE = 1 << 16;
        /// MOV to CR8 exits.
        const CR8_LOAD = 1 << 19;
        /// MOV from CR8 exits.
        const CR8_STORE = 1 << 20;
        /// CR8 is that of the virtual-APIC page.
        const TPR_SHADOW = 1 << 21;
        /// Exit as soon as the guest can take an NMI.
        const NMI_WINDOW = 1 << 22;
        /// MOV to and from debug registers exits.
        const MOV_DR = 1 << 23;
        /// Every port exits.
        const UNCONDITIONAL_IO = 1 << 24;
        /// The I/O bitmaps apply.
        const IO_BITMAPS = 1 << 25;
        /// The MSR bitmap applies.
        const MSR_BITMAP = 1 << 28;
        /// MONITOR exits.
        const MONITOR = 1 << 29;
        /// PAUSE exits.
        const PAUSE = 1 << 30;
        /// The secondary controls apply.
        const SECONDARY = 1 << 31;
    }

    /// Secondary processor-based VM-execution controls.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct SecondaryControls: u32 {
        /// Extended page tables.
        const EPT = 1 << 1;
        /// RDTSCP exists.
        const RDTSCP = 1 << 3;
        /// Translations are tagged.
        const VPID = 1 << 5;
        /// WBINVD exits.
        const WBINVD = 1 << 6;
        /// Real mode and unpaged protected mode run as they are.
        const UNRESTRICTED_GUEST = 1 << 7;
        /// INVPCID exists.
        const INVPCID = 1 << 12;
        /// ENCLS exits, by a bitmap.
        const ENCLS = 1 << 15;
    }

    /// VM-exit controls.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct ExitControls: u32 {
        /// DR7 and IA32_DEBUGCTL are saved.
        const SAVE_DEBUG = 1 << 2;
        /// The host runs in 64-bit mode.
        const HOST_64 = 1 << 9;
        /// The interrupt that caused the exit is acknowledged by it.
        const ACKNOWLEDGE = 1 << 15;
        /// IA32_PAT is saved.
        const SAVE_PAT = 1 << 18;
        /// The host's IA32_PAT is loaded.
        const LOAD_PAT = 1 << 19;
        /// IA32_EFER is saved.
        const SAVE_EFER = 1 << 20;
        /// The host's IA32_EFER is loaded.
        const LOAD_EFER = 1 << 21;
        /// What is left of the preemption timer is saved.
        const SAVE_TIMER = 1 << 22;
    }

    /// VM-entry controls.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct VmEntryControls: u32 {
        /// DR7 and IA32_DEBUGCTL are loaded.
        const LOAD_DEBUG = 1 << 2;
        /// The guest is in IA-32e mode.
        const GUEST_64 = 1 << 9;
        /// The guest's IA32_PAT is loaded.
        const LOAD_PAT = 1 << 14;
        /// The guest's IA32_EFER is loaded.
        const LOAD_EFER = 1 << 15;
    }

    /// IA32_VMX_EPT_VPID_CAP.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct EptVpid: u64 {
        /// Walks of four levels.
        const FOUR_LEVELS = 1 << 6;
        /// Tables may be write-back.
        const WRITE_BACK = 1 << 14;
        /// Leaves of 2 MiB.
        const PAGES_2M = 1 << 16;
        /// Leaves of 1 GiB.
        const PAGES_1G = 1 << 17;
        /// INVEPT exists.
        const INVEPT = 1 << 20;
        /// Accessed and dirty flags.
        const ACCESSED_DIRTY = 1 << 21;
        /// INVEPT of one EPT pointer.
        const INVEPT_SINGLE = 1 << 25;
        /// INVEPT of all.
        const INVEPT_ALL = 1 << 26;
    }
}

impl PrimaryControls {
    /// Those that change in a vCPU's life.
    pub(crate) const CHANGING: PrimaryControls = PrimaryControls::INTERRUPT_WINDOW
        .union(PrimaryControls::NMI_WINDOW)
        .union(PrimaryControls::MOV_DR)
        .union(PrimaryControls::HLT)
        .union(PrimaryControls::MSR_BITMAP);
}

/// The capability MSRs, as read. Of those that come in two forms, the TRUE ones where they exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct VmxMsrs {
    /// IA32_VMX_BASIC.
    pub(crate) basic: u64,
    /// IA32_VMX_PINBASED_CTLS.
    pub(crate) pin: u64,
    /// IA32_VMX_PROCBASED_CTLS.
    pub(crate) primary: u64,
    /// IA32_VMX_PROCBASED_CTLS2; 0 where there are no secondary controls.
    pub(crate) secondary: u64,
    /// IA32_VMX_EXIT_CTLS.
    pub(crate) exit: u64,
    /// IA32_VMX_ENTRY_CTLS.
    pub(crate) entry: u64,
    /// IA32_VMX_EPT_VPID_CAP; 0 where there is neither.
    pub(crate) ept_vpid: u64,
    /// IA32_VMX_MISC.
    pub(crate) misc: u64,
    /// IA32_VMX_CR0_FIXED0: bits that must be 1.
    pub(crate) cr0_fixed0: u64,
    /// IA32_VMX_CR4_FIXED0.
    pub(crate) cr4_fixed0: u64,
}

/// IA32_VMX_BASIC bit 55: the TRUE capability MSRs exist.
pub(crate) const BASIC_TRUE_CONTROLS: u64 = 1 << 55;

/// IA32_VMX_MISC: processor trace can be on in VMX operation; elsewhere VMXON switches it off. SDM, "Tracing Post-VMXON".
const MISC_TRACES: u64 = 1 << 14;

/// Returns whether the host runs on a hypervisor that a loaded KVM may talk to by an enlightened VMCS: the processor's
/// own VMCS is then not what counts. `cpuid` executes that instruction.
///
/// Microsoft, "Hypervisor Top-Level Functional Specification", "Enlightened VMCS".
pub(crate) fn has_enlightened_vmcs(cpuid: impl Fn(u32) -> CpuidRegs) -> bool {
    const NAME: [u32; 3] = signature(b"Microsoft Hv");
    const NESTED: u32 = 0x4000_000a;
    let is_guest = F1Ecx::from_bits_retain(cpuid(1).ecx).contains(F1Ecx::HYPERVISOR);
    let first = cpuid(0x4000_0000);
    let is_hyperv = is_guest && [first.ebx, first.ecx, first.edx] == NAME && first.eax >= NESTED;
    // The lowest version that it knows.
    is_hyperv && cpuid(NESTED).eax & 0xff != 0
}

/// Returns whether IA32_FEATURE_CONTROL is locked and allows VMXON outside SMX. SDM, "Enabling and
/// Entering VMX Operation".
pub(crate) fn is_allowed(feature_control: u64) -> bool {
    const NEEDED: u64 = 1 << 0 | 1 << 2;
    feature_control & NEEDED == NEEDED
}

/// Notes the MSRs of one more CPU; returns whether they are those of the CPUs before.
pub(crate) fn agree(common: &mut Option<VmxMsrs>, found: VmxMsrs) -> bool {
    *common.get_or_insert(found) == found
}

/// Applies the allowed settings of a capability MSR: `need` must be possible, `want` is taken where it
/// is. What the processor forces to 1 is added.
///
/// # Errors
/// The bits of `need` that cannot be 1.
pub(crate) fn adjust(msr: u64, need: u32, want: u32) -> Result<u32, u32> {
    let (must, may) = (msr as u32, (msr >> 32) as u32);
    let missing = need & !may;
    if missing != 0 {
        return Err(missing);
    }
    Ok(((need | want) & may) | must)
}

/// CR0.PE and CR0.PG: what unrestricted guest sets free. SDM, "Unrestricted Guests".
pub(crate) const CR0_PAGED: u64 = Cr0::PE.union(Cr0::PG).bits();

/// The controls of every VMCS on this machine, and what else the probe found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VmxSetup {
    /// The revision identifier of VMXON and VMCS regions.
    pub(crate) revision: u32,
    /// Pin-based controls.
    pub(crate) pin: u32,
    /// Primary controls; windows and debug registers are changed per vCPU.
    pub(crate) primary: u32,
    /// Secondary controls.
    pub(crate) secondary: u32,
    /// VM-exit controls.
    pub(crate) exit: u32,
    /// VM-entry controls, for a guest outside IA-32e mode.
    pub(crate) entry: u32,
    /// Bits that guest CR0 must have.
    pub(crate) cr0_one: u64,
    /// Bits that guest CR4 must have.
    pub(crate) cr4_one: u64,
    /// What EPT and INVEPT can do, where guests have EPT.
    pub(crate) ept_vpid: EptVpid,
    /// The processor can trace what it executes in VMX operation, too.
    pub(crate) traces: bool,
    /// The preemption timer counts once in 2^`timer_rate` ticks of the TSC.
    pub(crate) timer_rate: u32,
}

impl VmxSetup {
    /// Computes the controls. `ept`: guests have EPT where the processor's does, and with it unrestricted guest, VPIDs and
    /// their own PAT and EFER.
    ///
    /// # Errors
    /// What the processor lacks, in words for the kernel's log.
    pub(crate) fn new(msrs: &VmxMsrs, ept: bool) -> Result<VmxSetup, &'static str> {
        let ept_vpid = usable_ept(msrs).filter(|_| ept);
        let has_ept = ept_vpid.is_some();
        let pin = PinControls::EXTERNAL_INTERRUPT | PinControls::NMI | PinControls::VIRTUAL_NMIS;
        let timer = PinControls::PREEMPTION_TIMER.bits();
        let pin = adjust(msrs.pin, pin.bits(), timer).map_err(|_| "virtual NMIs")?;
        let primary = primary(msrs, has_ept)?;
        let mut exit = ExitControls::SAVE_DEBUG | ExitControls::HOST_64;
        exit.set(EXIT_WITH_EPT, has_ept);
        // Goes with a timer alone. SDM, "VM-Exit Control Fields".
        let save_timer = if pin & timer != 0 { ExitControls::SAVE_TIMER.bits() } else { 0 };
        let exit =
            adjust(msrs.exit, exit.bits(), save_timer).map_err(|_| "VM-exit controls of a 64-bit host")?;
        // The host takes its interrupt itself, once the window is closed; one that an exit acknowledged would be lost.
        if exit & ExitControls::ACKNOWLEDGE.bits() != 0 {
            return Err("exits that leave the host's interrupt pending");
        }
        let mut entry = VmEntryControls::LOAD_DEBUG;
        entry.set(ENTRY_WITH_EPT, has_ept);
        let entry =
            adjust(msrs.entry, entry.bits(), 0).map_err(|_| "VM-entry controls for debug registers")?;
        let mut setup = VmxSetup {
            revision: msrs.basic as u32 & 0x7fff_ffff,
            pin,
            primary,
            secondary: secondary(msrs, has_ept),
            exit,
            entry,
            cr0_one: msrs.cr0_fixed0 | CR0_PAGED,
            cr4_one: msrs.cr4_fixed0,
            ept_vpid: ept_vpid.unwrap_or(EptVpid::empty()),
            traces: msrs.misc & MISC_TRACES != 0,
            timer_rate: msrs.misc as u32 & 31,
        };
        if setup.is_unrestricted() {
            setup.cr0_one &= !CR0_PAGED;
        }
        Ok(setup)
    }

    /// Returns whether guests have EPT. Without it their processors walk tables from linear addresses.
    pub(crate) fn has_ept(&self) -> bool {
        SecondaryControls::from_bits_retain(self.secondary).contains(SecondaryControls::EPT)
    }

    /// Returns whether real mode and protected mode without paging run as they are. Elsewhere a guest is
    /// entered only with CR0.PE and CR0.PG set, which are then the host's bits of CR0.
    pub(crate) fn is_unrestricted(&self) -> bool {
        SecondaryControls::from_bits_retain(self.secondary).contains(SecondaryControls::UNRESTRICTED_GUEST)
    }

    /// Returns the preemption timer's value for a guest that starts with `rflags`: how long it runs in one window.
    /// Then the host looks whether it has an interrupt, for Bochs 3.0 holds them back from a guest that
    /// is entered with RFLAGS.IF clear. The timer counts in the guest alone, and over its exits, which may
    /// take a hundred times as long. A processor's own ticks come earlier.
    pub(crate) fn longest_run(&self, tsc_khz: u32, rflags: u64) -> Option<u32> {
        self.timer_value(tsc_khz, if rflags & Rflags::IF.bits() == 0 { 1 } else { 10 })
    }

    /// Returns the value of the preemption timer for `ms` milliseconds, or the longest there is; `None`
    /// where there is no such timer.
    fn timer_value(&self, tsc_khz: u32, ms: u32) -> Option<u32> {
        let ticks = u64::from(tsc_khz).wrapping_mul(u64::from(ms)).wrapping_shr(self.timer_rate);
        let has = PinControls::from_bits_retain(self.pin).contains(PinControls::PREEMPTION_TIMER);
        // A value of 0 would end the guest before its first instruction.
        has.then_some(u32::try_from(ticks.max(1)).unwrap_or(u32::MAX))
    }

    /// Returns whether ENCLS exits where its bitmap says so.
    pub(crate) fn has_encls(&self) -> bool {
        SecondaryControls::from_bits_retain(self.secondary).contains(SecondaryControls::ENCLS)
    }

    /// Returns whether translations are tagged with a VPID.
    pub(crate) fn has_vpid(&self) -> bool {
        SecondaryControls::from_bits_retain(self.secondary).contains(SecondaryControls::VPID)
    }
}

/// What goes with EPT alone: translations of ours have the host's memory types, and bits that forbid execution.
const EXIT_WITH_EPT: ExitControls = ExitControls::SAVE_PAT
    .union(ExitControls::LOAD_PAT)
    .union(ExitControls::SAVE_EFER)
    .union(ExitControls::LOAD_EFER);
/// As [`EXIT_WITH_EPT`].
const ENTRY_WITH_EPT: VmEntryControls = VmEntryControls::LOAD_PAT.union(VmEntryControls::LOAD_EFER);
/// What exits without EPT, so that the guest walks no tables but ours and does not learn of them.
const PRIMARY_WITHOUT_EPT: PrimaryControls =
    PrimaryControls::INVLPG.union(PrimaryControls::CR3_LOAD).union(PrimaryControls::CR3_STORE);

/// Returns what the processor's EPT can do, if it does for a guest: it walks tables as they are made here, a guest can load
/// CR3 without an exit, and have a PAT and an EFER of its own.
fn usable_ept(msrs: &VmxMsrs) -> Option<EptVpid> {
    let caps = EptVpid::from_bits_truncate(msrs.ept_vpid);
    let need = EptVpid::FOUR_LEVELS | EptVpid::WRITE_BACK | EptVpid::PAGES_2M | EptVpid::INVEPT;
    let can_walk = caps.contains(need) && caps.intersects(EptVpid::INVEPT_SINGLE | EptVpid::INVEPT_ALL);
    let can = |msr, need| adjust(msr, need, 0).is_ok();
    let can_switch = can(msrs.secondary, SecondaryControls::EPT.bits())
        && can(msrs.exit, EXIT_WITH_EPT.bits())
        && can(msrs.entry, ENTRY_WITH_EPT.bits());
    let is_free = msrs.primary as u32 & PRIMARY_WITHOUT_EPT.bits() == 0;
    Some(caps).filter(|_| can_walk && can_switch && is_free)
}

fn primary(msrs: &VmxMsrs, has_ept: bool) -> Result<u32, &'static str> {
    let mut need = PrimaryControls::TSC_OFFSET
        | PrimaryControls::HLT
        | PrimaryControls::MWAIT
        | PrimaryControls::RDPMC
        | PrimaryControls::TPR_SHADOW
        | PrimaryControls::MOV_DR
        | PrimaryControls::UNCONDITIONAL_IO
        | PrimaryControls::MSR_BITMAP
        | PrimaryControls::MONITOR
        | PrimaryControls::SECONDARY;
    need.set(PRIMARY_WITHOUT_EPT, !has_ept);
    let windows = PrimaryControls::INTERRUPT_WINDOW | PrimaryControls::NMI_WINDOW;
    let both = need | windows;
    let bits = match adjust(msrs.primary, both.bits(), 0) {
        Ok(bits) => bits,
        Err(e) if e & PrimaryControls::SECONDARY.bits() != 0 => {
            return Err("secondary VM-execution controls")
        }
        Err(e) if e & PrimaryControls::TPR_SHADOW.bits() != 0 => return Err("the TPR shadow"),
        Err(e) if e & PrimaryControls::MSR_BITMAP.bits() != 0 => return Err("the MSR bitmap"),
        Err(_) => return Err("VM-execution controls that every 64-bit processor has"),
    };
    let unhandled = PrimaryControls::CR8_LOAD | PrimaryControls::CR8_STORE | PrimaryControls::RDTSC;
    // A processor that forces one of these to 1 makes exits that nothing here answers.
    if bits & unhandled.bits() != 0 || msrs.primary as u32 & windows.bits() != 0 {
        return Err("accesses to CR8 and the TSC without an exit");
    }
    Ok(bits & !windows.bits())
}

fn secondary(msrs: &VmxMsrs, has_ept: bool) -> u32 {
    let with_ept = SecondaryControls::EPT
        | SecondaryControls::VPID
        | SecondaryControls::INVPCID
        | SecondaryControls::UNRESTRICTED_GUEST;
    let mut want = SecondaryControls::RDTSCP | SecondaryControls::WBINVD | SecondaryControls::ENCLS;
    want.set(with_ept, has_ept);
    // Nothing is needed of them but EPT, which can be where it is wanted.
    adjust(msrs.secondary, 0, want.bits()).unwrap_or(0)
}
