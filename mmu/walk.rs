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

use super::mem::{GuestMem, MemError};
use crate::arch::addr::{Gpa, Gva, PAGE_SHIFT};
use crate::arch::cr::{Cr0, Cr4, Efer};
use crate::arch::exception::{CpuException, PfError};

/// How often a walk starts again because the guest changed its tables meanwhile.
const MAX_ATTEMPTS: u32 = 16;
/// The depth of the deepest mode.
const MAX_LEVELS: usize = 5;

const PRESENT: u64 = 1 << 0;
const WRITE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXEC: u64 = 1 << 63;
/// Bits 51:12.
const ADDRESS: u64 = bits(51, 12);

/// The bits `high` to `low` of an entry.
const fn bits(high: u32, low: u32) -> u64 {
    if low > high {
        return 0;
    }
    u64::MAX.wrapping_shr(63u32.wrapping_sub(high)) & u64::MAX.wrapping_shl(low)
}

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

bitflags::bitflags! {
    /// What the guest's tables allow for a page, all levels combined.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct PageRights: u8 {
        /// Writes; without it the supervisor still may unless CR0.WP is set.
        const WRITE = 1 << 0;
        /// It is a user page.
        const USER = 1 << 1;
        /// Instruction fetches.
        const EXEC = 1 << 2;
    }
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PagingMode {
    Legacy,
    Pae,
    Long { levels: u32 },
}

impl PagingMode {
    fn of(paging: &PagingRegs) -> PagingMode {
        if paging.efer.contains(Efer::LMA) {
            PagingMode::Long { levels: if paging.cr4.contains(Cr4::LA57) { 5 } else { 4 } }
        } else if paging.cr4.contains(Cr4::PAE) {
            PagingMode::Pae
        } else {
            PagingMode::Legacy
        }
    }

    /// Returns the level of the root table.
    fn levels(self) -> u32 {
        match self {
            PagingMode::Legacy => 2,
            PagingMode::Pae => 3,
            PagingMode::Long { levels } => levels,
        }
    }

    fn entry_bytes(self) -> usize {
        match self {
            PagingMode::Legacy => 4,
            PagingMode::Pae | PagingMode::Long { .. } => 8,
        }
    }

    /// Returns log2 of the bytes that an entry of `level` covers.
    fn shift(self, level: u32) -> u32 {
        let index_bits: u32 = if self == PagingMode::Legacy { 10 } else { 9 };
        PAGE_SHIFT.wrapping_add(index_bits.wrapping_mul(level.wrapping_sub(1)))
    }

    /// Returns the address of the root table.
    fn root(self, cr3: u64) -> Gpa {
        Gpa(cr3
            & match self {
                PagingMode::Legacy => bits(31, 12),
                PagingMode::Pae => bits(31, 5),
                PagingMode::Long { .. } => ADDRESS,
            })
    }

    /// Returns whether entries of `level` carry rights and an accessed bit.
    fn has_rights(self, level: u32) -> bool {
        !(self == PagingMode::Pae && level == 3)
    }
}

/// An entry that a walk used.
#[derive(Clone, Copy)]
struct WalkStep {
    at: Gpa,
    entry: u64,
    level: u32,
}

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
    // Outside long mode a linear address has 32 bits, and what an offset adds beyond them wraps.
    let gva = if paging.efer.contains(Efer::LMA) { gva } else { Gva(gva.0 & bits(31, 0)) };
    if !paging.cr0.contains(Cr0::PG) {
        return Ok(GuestTranslation { gpa: Gpa(gva.0), page_shift: PAGE_SHIFT, rights: PageRights::all() });
    }
    let walker = TableWalker { mem, paging, mode: PagingMode::of(paging), gva, access };
    for _ in 0..MAX_ATTEMPTS {
        if let Some(translation) = walker.attempt()? {
            return Ok(translation);
        }
    }
    Err(WalkError::Busy)
}

struct TableWalker<'a, M> {
    mem: &'a M,
    paging: &'a PagingRegs,
    mode: PagingMode,
    gva: Gva,
    access: WalkAccess,
}

impl<M: GuestMem> TableWalker<'_, M> {
    /// Walks once; `None` when an entry changed meanwhile.
    fn attempt(&self) -> Result<Option<GuestTranslation>, WalkError> {
        let mut table = self.mode.root(self.paging.cr3);
        let mut rights = PageRights::all();
        let mut steps = [None; MAX_LEVELS];
        let mut level = self.mode.levels();
        let mut leaf = 0;
        for slot in &mut steps {
            let step = self.step(table, level)?;
            *slot = Some(step);
            if self.mode.has_rights(level) {
                rights &= entry_rights(step.entry);
            }
            leaf = step.entry;
            if self.is_leaf(step.entry, level) {
                break;
            }
            table = Gpa(step.entry & self.address_bits());
            level = level.wrapping_sub(1);
        }
        self.check(rights, leaf)?;
        // After the check: a write that is refused must not leave a dirty bit.
        if !self.mark(&steps, level)? {
            return Ok(None);
        }
        let page_shift = self.mode.shift(level);
        Ok(Some(GuestTranslation { gpa: self.page_gpa(leaf, level), page_shift, rights }))
    }

    /// Reads the entry of a table that the address leads to, and checks what each entry must be.
    fn step(&self, table: Gpa, level: u32) -> Result<WalkStep, WalkError> {
        let index_mask = if self.mode == PagingMode::Legacy { 0x3ff } else { 0x1ff };
        let index = self.gva.0.wrapping_shr(self.mode.shift(level)) & index_mask;
        let at = table.wrapping_add(index.wrapping_mul(self.mode.entry_bytes() as u64));
        let loaded = if self.mode.has_rights(level) { None } else { self.paging.pdptes };
        let read = match self.mode {
            _ if loaded.is_some() => Ok(self.pdpte(loaded)),
            PagingMode::Legacy => self.mem.read_obj::<u32>(at).map(u64::from),
            PagingMode::Pae | PagingMode::Long { .. } => self.mem.read_obj::<u64>(at),
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
        if entry & self.reserved(entry, level) != 0 {
            return Err(self.fault(PfError::PRESENT | PfError::RSVD));
        }
        Ok(WalkStep { at, entry, level })
    }

    /// Returns the directory pointer that the address is under.
    fn pdpte(&self, entries: Option<[u64; 4]>) -> u64 {
        let index = usize::try_from(self.gva.0 >> 30 & 3).unwrap_or(0);
        entries.and_then(|entries| entries.get(index).copied()).unwrap_or(0)
    }

    fn is_leaf(&self, entry: u64, level: u32) -> bool {
        let large = entry & LARGE != 0;
        match (self.mode, level) {
            // There bit 7 is the PAT's, not the size.
            (_, 1) => true,
            (PagingMode::Legacy, 2) => large && self.paging.cr4.contains(Cr4::PSE),
            (PagingMode::Pae | PagingMode::Long { .. }, 2) => large,
            (PagingMode::Long { .. }, 3) => large,
            _ => false,
        }
    }

    fn maxphyaddr(&self) -> u32 {
        self.paging.maxphyaddr.clamp(32, 52)
    }

    /// Returns the bits of an entry that can hold an address of this guest.
    fn address_bits(&self) -> u64 {
        match self.mode {
            PagingMode::Legacy => bits(31, 12),
            PagingMode::Pae | PagingMode::Long { .. } => bits(self.maxphyaddr().wrapping_sub(1), 12),
        }
    }

    /// Returns the bits that must be 0 in a present entry of `level`.
    fn reserved(&self, entry: u64, level: u32) -> u64 {
        let width = self.maxphyaddr();
        let leaf = self.is_leaf(entry, level);
        let no_exec = if self.paging.efer.contains(Efer::NXE) { 0 } else { NO_EXEC };
        match (self.mode, level) {
            // PSE-36: bits 20:13 are bits 39:32 of the address, as far as the guest has them.
            (PagingMode::Legacy, 2) if leaf => bits(21, width.min(40).wrapping_sub(19)),
            (PagingMode::Legacy, _) => 0,
            (PagingMode::Pae, 3) => 0,
            (PagingMode::Pae, 2) if leaf => no_exec | bits(62, width) | bits(20, 13),
            (PagingMode::Pae, _) => no_exec | bits(62, width),
            (PagingMode::Long { .. }, 4 | 5) => no_exec | bits(51, width) | LARGE,
            (PagingMode::Long { .. }, 3) if leaf && !self.paging.gib_pages => LARGE,
            (PagingMode::Long { .. }, 3) if leaf => no_exec | bits(51, width) | bits(29, 13),
            (PagingMode::Long { .. }, 2) if leaf => no_exec | bits(51, width) | bits(20, 13),
            (PagingMode::Long { .. }, _) => no_exec | bits(51, width),
        }
    }

    /// Returns the address within the page that a leaf of `level` maps.
    fn page_gpa(&self, leaf: u64, level: u32) -> Gpa {
        let offset_mask = bits(self.mode.shift(level).wrapping_sub(1), 0);
        let mut base = leaf & self.address_bits() & !offset_mask;
        if self.mode == PagingMode::Legacy && level == 2 {
            base |= (leaf & bits(20, 13)) << 19;
        }
        Gpa(base | (self.gva.0 & offset_mask))
    }

    /// Checks the combined rights. SDM, "Determination of Access Rights".
    fn check(&self, rights: PageRights, leaf: u64) -> Result<(), WalkError> {
        let WalkAccess { kind, privilege } = self.access;
        let user = privilege == AccessPrivilege::User;
        let user_page = rights.contains(PageRights::USER);
        let wp_applies = user || self.paging.cr0.contains(Cr0::WP);
        // The processor's own accesses, to a descriptor table say, are not excused by the flag.
        let smap_lifted = self.paging.ac && privilege == AccessPrivilege::Supervisor;
        let denied_by_owner = match (user, user_page, kind) {
            (true, _, _) => !user_page,
            (false, false, _) => false,
            (false, true, AccessKind::Fetch) => self.paging.cr4.contains(Cr4::SMEP),
            (false, true, _) => self.paging.cr4.contains(Cr4::SMAP) && !smap_lifted,
        };
        let denied_by_kind = match kind {
            AccessKind::Read => false,
            AccessKind::Write => wp_applies && !rights.contains(PageRights::WRITE),
            AccessKind::Fetch => !rights.contains(PageRights::EXEC),
        };
        let denied_by_key = user_page && self.is_denied_by_key(leaf, wp_applies);
        if denied_by_key {
            return Err(self.fault(PfError::PRESENT | PfError::PKEY));
        }
        if denied_by_owner || denied_by_kind {
            return Err(self.fault(PfError::PRESENT));
        }
        Ok(())
    }

    /// Returns whether PKRU refuses the access to a user page. SDM, "Protection Keys".
    fn is_denied_by_key(&self, leaf: u64, wp_applies: bool) -> bool {
        let long = matches!(self.mode, PagingMode::Long { .. });
        if !long || !self.paging.cr4.contains(Cr4::PKE) || self.access.kind == AccessKind::Fetch {
            return false;
        }
        let key = ((leaf >> 59) & 0xf) as u32;
        let rights = self.paging.pkru.wrapping_shr(key.wrapping_mul(2));
        let (access_disabled, write_disabled) = (rights & 1 != 0, rights & 2 != 0);
        access_disabled || (write_disabled && wp_applies && self.access.kind == AccessKind::Write)
    }

    /// Sets the accessed bits, and the dirty bit in the leaf at `leaf_level`. Returns false when an
    /// entry had changed.
    fn mark(&self, steps: &[Option<WalkStep>], leaf_level: u32) -> Result<bool, WalkError> {
        for step in steps.iter().flatten().filter(|s| self.mode.has_rights(s.level)) {
            let dirties = step.level == leaf_level && self.access.kind == AccessKind::Write;
            let new = step.entry | ACCESSED | if dirties { DIRTY } else { 0 };
            if new == step.entry {
                continue;
            }
            match self.mem.cmpxchg(step.at, self.mode.entry_bytes(), step.entry, new) {
                // Accessed bits that were set above it may stay: the processor, too, sets some for walks that come to
                // nothing.
                Ok(found) if found != step.entry => return Ok(false),
                // The entry could be read, so this is read-only memory.
                Ok(_) | Err(MemError::NoSlot(_)) => {}
                Err(other) => return Err(WalkError::Mem(other)),
            }
        }
        Ok(true)
    }

    /// Makes the page fault with what the access itself contributes to the error code.
    fn fault(&self, cause: PfError) -> WalkError {
        let no_exec_exists = self.paging.efer.contains(Efer::NXE) && self.mode != PagingMode::Legacy;
        // SDM, "Page-Fault Exceptions": where fetches need no right of their own, the bit stays 0.
        let tells_fetch = no_exec_exists || self.paging.cr4.contains(Cr4::SMEP);
        let mut error = cause;
        error.set(PfError::WRITE, self.access.kind == AccessKind::Write);
        error.set(PfError::USER, self.access.privilege == AccessPrivilege::User);
        error.set(PfError::FETCH, self.access.kind == AccessKind::Fetch && tells_fetch);
        WalkError::Fault(CpuException::page_fault(self.gva, error))
    }
}

fn entry_rights(entry: u64) -> PageRights {
    let mut rights = PageRights::empty();
    rights.set(PageRights::WRITE, entry & WRITE != 0);
    rights.set(PageRights::USER, entry & USER != 0);
    rights.set(PageRights::EXEC, entry & NO_EXEC == 0);
    rights
}
