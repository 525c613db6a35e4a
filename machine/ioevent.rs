// SPDX-License-Identifier: GPL-2.0

//! Writes of the guest that signal instead of reaching a device: KVM_IOEVENTFD.
//!
//! The table is looked at on every write that no chip takes, with interrupts off, so it is sorted by all that decides,
//! and replaced as a whole when it changes. A caller may have thousands of entries at one address, that differ in the
//! value: a doorbell for each queue. Documentation of KVM's API, "KVM_IOEVENTFD".

use crate::arch::slice::count_first;
use crate::chipset::bus;
use kernel::prelude::*;

/// The most entries of a VM.
const MAX: usize = 16384;

/// A kind of address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IoAddrSpace {
    /// I/O ports that no chip of ours decodes.
    Port,
    /// Those that one does: it gets the write, and nothing is signalled.
    ChipPort,
    /// Guest physical memory.
    Memory,
}

impl IoAddrSpace {
    /// Returns the kind of the I/O port `addr`.
    pub(crate) fn of_port(addr: u64) -> IoAddrSpace {
        match u16::try_from(addr) {
            Ok(port) if bus::decodes(port) => IoAddrSpace::ChipPort,
            _ => IoAddrSpace::Port,
        }
    }
}

/// Which writes signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IoEventMatch {
    /// The kind of `addr`.
    pub(crate) place: IoAddrSpace,
    /// The address of the write.
    pub(crate) addr: u64,
    /// The bytes written: 1, 2, 4, 8, or 0 for any.
    pub(crate) len: u32,
    /// The value written, `None` for any; always that with `len` 0.
    pub(crate) value: Option<u64>,
}

impl IoEventMatch {
    /// Orders the entries of a place: by address and length, then that of any value, then by value.
    fn key(&self) -> (u64, u32, Option<u64>) {
        (self.addr, self.len, self.value)
    }

    /// Returns whether a write of `len` bytes of `value` to the same address is one of these.
    fn takes(&self, len: u32, value: impl FnOnce() -> u64) -> bool {
        self.len == 0 || (self.len == len && self.value.is_none_or(|v| v == value()))
    }

    /// Returns whether a write could be meant for both.
    fn collides(&self, other: &IoEventMatch) -> bool {
        let same_length = self.len == other.len
            && (self.value.is_none() || other.value.is_none() || self.value == other.value);
        self.place == other.place
            && self.addr == other.addr
            && (self.len == 0 || other.len == 0 || same_length)
    }
}

/// What signals on which writes; `E` is what is signalled.
#[derive(Debug)]
pub(crate) struct IoEvents<E> {
    /// Each by [`IoEventMatch::key`].
    ports: KVec<(IoEventMatch, E)>,
    chip_ports: KVec<(IoEventMatch, E)>,
    memory: KVec<(IoEventMatch, E)>,
}

impl<E> Default for IoEvents<E> {
    fn default() -> IoEvents<E> {
        IoEvents { ports: KVec::new(), chip_ports: KVec::new(), memory: KVec::new() }
    }
}

impl<E> IoEvents<E> {
    fn of(&self, place: IoAddrSpace) -> &[(IoEventMatch, E)] {
        match place {
            IoAddrSpace::Port => &self.ports,
            IoAddrSpace::ChipPort => &self.chip_ports,
            IoAddrSpace::Memory => &self.memory,
        }
    }

    /// As [`IoEvents::find`], of what `value` returns; `hint` is the place of the last hit, wrong at worst.
    #[inline(always)]
    pub(crate) fn find_near(
        &self,
        place: IoAddrSpace,
        addr: u64,
        len: u32,
        value: impl Fn() -> u64,
        hint: &mut usize,
    ) -> Option<&E> {
        let list = self.of(place);
        match list.get(*hint) {
            Some((m, e)) if m.addr == addr && m.takes(len, &value) => Some(e),
            None if list.is_empty() => None,
            _ => {
                *hint = index(list, addr, len, value())?;
                list.get(*hint).map(|(_, e)| e)
            }
        }
    }

    /// Returns what a write of `len` bytes signals, if anything.
    #[allow(dead_code, reason = "used by the tests")]
    pub(crate) fn find(&self, place: IoAddrSpace, addr: u64, len: u32, value: u64) -> Option<&E> {
        let list = self.of(place);
        index(list, addr, len, value).and_then(|at| list.get(at)).map(|(_, e)| e)
    }
}

/// Returns the place in `list` of what a write signals.
#[inline(never)]
fn index<E>(list: &[(IoEventMatch, E)], addr: u64, len: u32, value: u64) -> Option<usize> {
    search(list.len(), |at| list.get(at).map(|(m, _)| m), addr, len, value)
}

/// Returns which of `count` entries, sorted by [`IoEventMatch::key`], takes a write; `get` returns them.
///
/// An entry of any value is the only one of its length, and one of any length the only one of its address, for none
/// collide. So where the write's own value is not found, either would lie right before the place of that.
pub(crate) fn search<'a>(
    count: usize,
    get: impl Fn(usize) -> Option<&'a IoEventMatch>,
    addr: u64,
    len: u32,
    value: u64,
) -> Option<usize> {
    let key = (addr, len, Some(value));
    let at = count_first(count, |i| get(i).is_some_and(|m| m.key() < key));
    let takes = |i: &usize| get(*i).is_some_and(|m| m.addr == addr && m.takes(len, || value));
    [Some(at), at.checked_sub(1)].into_iter().flatten().find(takes)
}

impl<E: Clone> IoEvents<E> {
    fn len(&self) -> usize {
        let ports = self.ports.len().saturating_add(self.chip_ports.len());
        ports.saturating_add(self.memory.len())
    }

    /// Returns the table with one entry more.
    ///
    /// # Errors
    /// `EEXIST` where a write could be meant for two entries, `ENOSPC`, `ENOMEM`.
    pub(crate) fn with(&self, new: IoEventMatch, event: E) -> Result<IoEvents<E>> {
        if self.of(new.place).iter().any(|(m, _)| m.collides(&new)) {
            return Err(EEXIST);
        }
        if self.len() >= MAX {
            return Err(ENOSPC);
        }
        let list = self.of(new.place);
        let at = count_first(list.len(), |i| list.get(i).is_some_and(|(m, _)| m.key() < new.key()));
        let mut changed = KVec::with_capacity(list.len().saturating_add(1), GFP_KERNEL_ACCOUNT)?;
        let added = (new, event);
        let through_new = Iterator::chain(list.iter().take(at), [&added]);
        for e in Iterator::chain(through_new, list.iter().skip(at)) {
            changed.push_within_capacity(e.clone())?;
        }
        self.replaced(new.place, changed)
    }

    /// Returns the table without the entry of `old` that `is_it` knows.
    ///
    /// # Errors
    /// `ENOENT`, `ENOMEM`.
    pub(crate) fn without(&self, old: IoEventMatch, is_it: impl Fn(&E) -> bool) -> Result<IoEvents<E>> {
        let list = self.of(old.place);
        let mut changed = KVec::with_capacity(list.len(), GFP_KERNEL_ACCOUNT)?;
        // No two entries are equal: one that could be mistaken for another is not let in.
        for e in list.iter().filter(|(m, e)| !(*m == old && is_it(e))) {
            changed.push_within_capacity(e.clone())?;
        }
        if changed.len() == list.len() {
            return Err(ENOENT);
        }
        self.replaced(old.place, changed)
    }

    /// Returns a second table of the same.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn try_clone(&self) -> Result<IoEvents<E>> {
        Ok(IoEvents {
            ports: copy(&self.ports)?,
            chip_ports: copy(&self.chip_ports)?,
            memory: copy(&self.memory)?,
        })
    }

    fn replaced(&self, place: IoAddrSpace, changed: KVec<(IoEventMatch, E)>) -> Result<IoEvents<E>> {
        let mut table = self.try_clone()?;
        match place {
            IoAddrSpace::Port => table.ports = changed,
            IoAddrSpace::ChipPort => table.chip_ports = changed,
            IoAddrSpace::Memory => table.memory = changed,
        }
        Ok(table)
    }
}

fn copy<T: Clone>(from: &[T]) -> Result<KVec<T>> {
    let mut to = KVec::with_capacity(from.len(), GFP_KERNEL_ACCOUNT)?;
    for e in from {
        to.push_within_capacity(e.clone())?;
    }
    Ok(to)
}
