// SPDX-License-Identifier: GPL-2.0

//! The guest's own page tables: linear to guest physical addresses, as its processor would.
//!
//! SDM, "Paging"; APM, "Page Translation and Protection". All modes: none, 32-bit (with 4 MiB pages
//! and PSE-36), PAE, 4-level and 5-level.
//!
//! The caller makes sure that a 64-bit address is canonical: that check belongs to the segment unit
//! and gives #GP or #SS. Outside long mode linear addresses have 32 bits; what lies above is dropped.
//!
//! Accessed and dirty bits are set after all checks passed, from the root down, by a locked
//! compare-and-exchange each. When an entry changed under the walk, the walk starts again. Tables
//! in read-only memory keep their bits as they are. A table where there is no memory is an absent entry,
//! as on KVM.
//!
//! PAE's directory pointers are those that the processor has taken, where it has registers for them; under nested
//! paging on AMD it has none, and they are read from memory at each walk. Their reserved bits do not count
//! here: the processor judged them when it took them. SDM, "PDPTE Registers"; APM, "Nested Paging".
//!
//! Not modelled: protection keys for supervisor pages, shadow stacks, and linear address masking,
//! none of which is offered to guests. DEVIATION: bit 8 of upper entries, reserved by AMD alone, is
//! ignored for all guests.

use super::guest_entry::{bits, protection_key, ACCESSED, DIRTY, MAX_LEVELS, PRESENT};
pub(crate) use super::guest_entry::{EntryRules, PageRights, PagingMode};
use super::mem::{GuestMem, MemError};
use crate::arch::addr::{Gpa, Gva, PAGE_SHIFT};
use crate::arch::cr::{Cr0, Cr4, Efer};
use crate::arch::exception::{CpuException, PfError};

/// How often a walk starts again because the guest changed its tables meanwhile.
const MAX_ATTEMPTS: u32 = 16;

/// The state that a translation depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PagingRegs {
    /// CR0: PG, WP.
    pub(crate) cr0: Cr0,
    /// CR3, with any PCID and flags.
    pub(crate) cr3: u64,
    /// CR4: PSE, PAE, LA57, SMEP, SMAP, PKE.
    pub(crate) cr4: Cr4,
    /// EFER: LMA, NXE.
    pub(crate) efer: Efer,
    /// RFLAGS.AC.
    pub(crate) ac: bool,
    /// PKRU.
    pub(crate) pkru: u32,
    /// The guest's physical address width in bits, from its CPUID; taken as 32 to 52.
    pub(crate) maxphyaddr: u32,
    /// Whether the guest's CPUID offers 1 GiB pages.
    pub(crate) gib_pages: bool,
    /// PAE's directory pointers, if they are in registers.
    pub(crate) pdptes: Option<[u64; 4]>,
}

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccessKind {
    /// Reads data.
    Read,
    /// Writes data, or reads in order to write.
    Write,
    /// Fetches an instruction.
    Fetch,
}

/// On whose behalf an access is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccessPrivilege {
    /// CPL 3.
    User,
    /// CPL 0 to 2, by an instruction's own operand: RFLAGS.AC lifts SMAP.
    Supervisor,
    /// By the processor for itself at any CPL: descriptor tables, task state.
    Implicit,
}

/// An access to a linear address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WalkAccess {
    /// What it does.
    pub(crate) kind: AccessKind,
    /// On whose behalf.
    pub(crate) privilege: AccessPrivilege,
}

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GuestTranslation {
    /// The guest physical address of the byte asked for.
    pub(crate) gpa: Gpa,
    /// log2 of the guest page's size: 12, 21, 22 or 30; 12 without paging.
    pub(crate) page_shift: u32,
    /// What the tables allow; everything without paging.
    pub(crate) rights: PageRights,
}

/// Why there is no translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WalkError {
    /// The guest gets a page fault.
    Fault(CpuException),
    /// A table of the guest could not be read or updated now.
    Mem(MemError),
    /// The guest kept changing its tables; let it run on, and it will come back.
    Busy,
}

impl PagingRegs {
    /// Returns what decides what an entry means.
    pub(crate) fn entry_rules(&self) -> EntryRules {
        EntryRules::new(self.cr0, self.cr4, self.efer, self.maxphyaddr, self.gib_pages)
    }

    /// Returns the linear address as paging sees it: outside long mode it has 32 bits, and what an offset adds beyond
    /// them wraps.
    pub(crate) fn linear(&self, gva: Gva) -> Gva {
        if self.efer.contains(Efer::LMA) {
            gva
        } else {
            Gva(gva.0 & bits(31, 0))
        }
    }

    /// Returns whether `access` may use a page of these rights and this protection key, or what the page fault's error
    /// code says of the cause. SDM, "Determination of Access Rights".
    ///
    /// # Errors
    /// The cause.
    pub(crate) fn check(&self, access: WalkAccess, rights: PageRights, key: u8) -> Result<(), PfError> {
        let WalkAccess { kind, privilege } = access;
        let user = privilege == AccessPrivilege::User;
        let user_page = rights.contains(PageRights::USER);
        let wp_applies = user || self.cr0.contains(Cr0::WP);
        // The processor's own accesses, to a descriptor table say, are not excused by the flag.
        let smap_lifted = self.ac && privilege == AccessPrivilege::Supervisor;
        let denied_by_owner = match (user, user_page, kind) {
            (true, _, _) => !user_page,
            (false, false, _) => false,
            (false, true, AccessKind::Fetch) => self.cr4.contains(Cr4::SMEP),
            (false, true, _) => self.cr4.contains(Cr4::SMAP) && !smap_lifted,
        };
        let denied_by_kind = match kind {
            AccessKind::Read => false,
            AccessKind::Write => wp_applies && !rights.contains(PageRights::WRITE),
            AccessKind::Fetch => !rights.contains(PageRights::EXEC),
        };
        if user_page && self.is_denied_by_key(kind, key, wp_applies) {
            return Err(PfError::PRESENT | PfError::PKEY);
        }
        if denied_by_owner || denied_by_kind {
            return Err(PfError::PRESENT);
        }
        Ok(())
    }

    /// Returns whether PKRU refuses the access to a user page. SDM, "Protection Keys".
    fn is_denied_by_key(&self, kind: AccessKind, key: u8, wp_applies: bool) -> bool {
        if !self.efer.contains(Efer::LMA) || !self.cr4.contains(Cr4::PKE) || kind == AccessKind::Fetch {
            return false;
        }
        let rights = self.pkru.wrapping_shr(u32::from(key).wrapping_mul(2));
        let (access_disabled, write_disabled) = (rights & 1 != 0, rights & 2 != 0);
        access_disabled || (write_disabled && wp_applies && kind == AccessKind::Write)
    }
}
/// An entry that a walk used, as it left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WalkStep {
    /// Where it is; of no meaning for a directory pointer that is in a register.
    pub(crate) at: Gpa,
    /// Its value.
    pub(crate) entry: u64,
    /// The level of its table.
    pub(crate) level: u32,
}

/// The entries that a walk used, by their level less one; none without paging.
pub(crate) type WalkSteps = [Option<WalkStep>; MAX_LEVELS];

/// Translates `gva` for `access`, and marks the entries used as accessed, and the page as dirty for
/// a write.
///
/// # Errors
/// As [`WalkError`].
pub(crate) fn walk<M: GuestMem>(
    mem: &M,
    paging: &PagingRegs,
    gva: Gva,
    access: WalkAccess,
) -> Result<GuestTranslation, WalkError> {
    walk_by(mem, paging, gva, access, &mut [None; MAX_LEVELS])
}

/// As [`walk`], and tells the entries used in `steps`, which must be empty.
///
/// # Errors
/// As [`WalkError`].
pub(crate) fn walk_by<M: GuestMem>(
    mem: &M,
    paging: &PagingRegs,
    gva: Gva,
    access: WalkAccess,
    steps: &mut WalkSteps,
) -> Result<GuestTranslation, WalkError> {
    let gva = paging.linear(gva);
    if !paging.cr0.contains(Cr0::PG) {
        return Ok(GuestTranslation { gpa: Gpa(gva.0), page_shift: PAGE_SHIFT, rights: PageRights::all() });
    }
    let walker = TableWalker { mem, paging, rules: paging.entry_rules(), gva, access };
    for _ in 0..MAX_ATTEMPTS {
        *steps = [None; MAX_LEVELS];
        if let Some(translation) = walker.attempt(steps)? {
            return Ok(translation);
        }
    }
    Err(WalkError::Busy)
}

struct TableWalker<'a, M> {
    mem: &'a M,
    paging: &'a PagingRegs,
    rules: EntryRules,
    gva: Gva,
    access: WalkAccess,
}

impl<M: GuestMem> TableWalker<'_, M> {
    /// Walks once; `None` when an entry changed meanwhile.
    fn attempt(&self, steps: &mut WalkSteps) -> Result<Option<GuestTranslation>, WalkError> {
        let mode = self.rules.mode();
        let mut table = mode.root(self.paging.cr3);
        let mut rights = PageRights::all();
        let mut level = mode.levels();
        let (mut leaf, mut used) = (0, ACCESSED);
        for slot in steps.iter_mut().take(level as usize).rev() {
            let step = self.step(table, level)?;
            *slot = Some(step);
            if mode.has_rights(level) {
                rights &= PageRights::of_entry(step.entry);
                used &= step.entry;
            }
            leaf = step.entry;
            if self.rules.is_leaf(step.entry, level) {
                break;
            }
            table = self.rules.table(step.entry);
            level = level.wrapping_sub(1);
        }
        self.paging.check(self.access, rights, protection_key(leaf)).map_err(|cause| self.fault(cause))?;
        let is_marked = used != 0 && (self.access.kind != AccessKind::Write || leaf & DIRTY != 0);
        // After the check: a write that is refused must not leave a dirty bit.
        if !is_marked && !self.mark(steps, level)? {
            return Ok(None);
        }
        let offset = self.gva.0 & self.rules.offset_mask(level);
        let gpa = Gpa(self.rules.page(leaf, level).0 | offset);
        Ok(Some(GuestTranslation { gpa, page_shift: mode.shift(level), rights }))
    }

    /// Reads the entry of a table that the address leads to, and checks what each entry must be.
    fn step(&self, table: Gpa, level: u32) -> Result<WalkStep, WalkError> {
        let mode = self.rules.mode();
        let at = mode.entry_at(table, self.gva, level);
        let loaded = if mode.has_rights(level) { None } else { self.paging.pdptes };
        let read = match loaded {
            Some(_) => Ok(self.pdpte(loaded)),
            None => read_entry(self.mem, mode, at),
        };
        let entry = match read {
            Ok(entry) => entry,
            // Nothing answers at the table's address: like an entry that is not present.
            Err(MemError::NoSlot(_)) => return Err(self.fault(PfError::empty())),
            Err(e) => return Err(WalkError::Mem(e)),
        };
        // Before the reserved bits: all others of an entry that is not present are the guest's own.
        if entry & PRESENT == 0 {
            return Err(self.fault(PfError::empty()));
        }
        if entry & self.rules.reserved(entry, level) != 0 {
            return Err(self.fault(PfError::PRESENT | PfError::RSVD));
        }
        Ok(WalkStep { at, entry, level })
    }

    /// Returns the directory pointer that the address is under.
    fn pdpte(&self, entries: Option<[u64; 4]>) -> u64 {
        let index = usize::try_from(self.gva.0 >> 30 & 3).unwrap_or(0);
        entries.and_then(|entries| entries.get(index).copied()).unwrap_or(0)
    }

    /// Sets the accessed bits, and the dirty bit in the leaf at `leaf_level`. Returns false when an
    /// entry had changed.
    fn mark(&self, steps: &mut WalkSteps, leaf_level: u32) -> Result<bool, WalkError> {
        let mode = self.rules.mode();
        // From the root down.
        for step in steps.iter_mut().rev().flatten().filter(|s| mode.has_rights(s.level)) {
            let dirties = step.level == leaf_level && self.access.kind == AccessKind::Write;
            let new = step.entry | ACCESSED | if dirties { DIRTY } else { 0 };
            if new == step.entry {
                continue;
            }
            match self.mem.cmpxchg(step.at, mode.entry_bytes(), step.entry, new) {
                // Accessed bits that were set above it may stay: the processor, too, sets some for walks that come to
                // nothing.
                Ok(found) if found != step.entry => return Ok(false),
                Ok(_) => step.entry = new,
                // The entry could be read, so this is read-only memory.
                Err(MemError::NoSlot(_)) => {}
                Err(other) => return Err(WalkError::Mem(other)),
            }
        }
        Ok(true)
    }

    /// Makes the page fault with what the access itself contributes to the error code.
    fn fault(&self, cause: PfError) -> WalkError {
        // SDM, "Page-Fault Exceptions": where fetches need no right of their own, the bit stays 0.
        let tells_fetch = self.rules.has_no_exec() || self.paging.cr4.contains(Cr4::SMEP);
        let mut error = cause;
        error.set(PfError::WRITE, self.access.kind == AccessKind::Write);
        error.set(PfError::USER, self.access.privilege == AccessPrivilege::User);
        error.set(PfError::FETCH, self.access.kind == AccessKind::Fetch && tells_fetch);
        WalkError::Fault(CpuException::page_fault(self.gva, error))
    }
}

/// Reads the entry at `at` of a table of the guest's.
///
/// # Errors
/// As [`MemError`].
pub(crate) fn read_entry<M: GuestMem>(mem: &M, mode: PagingMode, at: Gpa) -> Result<u64, MemError> {
    match mode {
        PagingMode::Legacy => mem.read_obj::<u32>(at).map(u64::from),
        PagingMode::Off | PagingMode::Pae | PagingMode::Long { .. } => mem.read_obj::<u64>(at),
    }
}
