// SPDX-License-Identifier: GPL-2.0

//! Page faults: what is shown, and what the guest gets itself.

use super::layout::{GuestMode, DEVICE, LARGE, MODES, RW, URO, URW};
use super::machine::{access, Found, Machine};
use crate::arch::addr::{Gpa, Gva};
use crate::arch::cr::{Cr0, Cr4};
use crate::arch::exception::{CpuException, PfError};
use crate::mmu::walk::AccessKind::{Fetch, Read, Write};
use GuestMode::{Legacy, Long4, Off, Pae};

fn fault(gva: u64, error: PfError) -> Found {
    Found::Fault(CpuException::page_fault(Gva(gva), error))
}

/// Writes an entry as user space would, which nobody tells.
fn put(machine: &Machine, mode: GuestMode, frame: u64, index: u64, entry: u64) {
    let bytes = mode.entry_bytes();
    machine.memory.put((frame << 12) + index * bytes as u64, entry, bytes);
}

fn entry(machine: &Machine, mode: GuestMode, frame: u64, index: u64) -> u64 {
    let bytes = mode.entry_bytes();
    machine.memory.get((frame << 12) + index * bytes as u64, bytes)
}

#[test]
fn each_mode_shows_what_its_tables_say() {
    for mode in MODES.into_iter().filter(|m| *m != Off) {
        let mut m = mode.machine(64, &[0]);
        let denied = PfError::PRESENT | PfError::WRITE | PfError::USER;

        assert_eq!(m.access(0, 0, access(Write, true)), Found::Page(16), "{mode:?}");
        assert_eq!(m.access(0, 0x2010, access(Read, true)), Found::Page(17), "{mode:?}");
        assert_eq!(m.access(0, 0x2010, access(Write, true)), fault(0x2010, denied), "{mode:?}");
        let supervisors = PfError::PRESENT | PfError::USER;
        let window = mode.window(5, 0);
        assert_eq!(m.access(0, window, access(Read, true)), fault(window, supervisors), "{mode:?}");
        assert_eq!(
            m.access(0, 0x10_0000, access(Read, false)),
            fault(0x10_0000, PfError::empty()),
            "{mode:?}"
        );
        m.end();
    }
}

#[test]
fn without_paging_addresses_are_physical_and_no_table_is_followed() {
    let mut m = Off.machine(64, &[]);

    assert_eq!(m.store(0, 0x5000, 1, 8), Found::Page(5));
    assert_eq!(m.read(0, 700 << 12), Found::Page(700));
    assert_eq!(m.read(0, DEVICE << 12), Found::Device(Gpa(DEVICE << 12)));
    m.end();
}

#[test]
fn addresses_outside_long_mode_wrap_at_4_gib() {
    for mode in [Legacy, Pae] {
        let mut m = mode.machine(64, &[0]);

        assert_eq!(m.read(0, (1 << 32) + 0x1000), Found::Page(17));
        m.end();
    }
}

#[test]
fn accessed_and_dirty_bits_are_set_as_the_processor_sets_them() {
    for mode in MODES.into_iter().filter(|m| *m != Off) {
        let mut m = mode.machine(64, &[0]);
        put(&m, mode, 5, 0, 16 << 12 | 7);

        m.access(0, 0, access(Read, true));
        assert_eq!(entry(&m, mode, 5, 0), 16 << 12 | 0x27, "{mode:?} after a read");
        m.access(0, 0, access(Write, true));
        assert_eq!(entry(&m, mode, 5, 0), 16 << 12 | 0x67, "{mode:?} after a write");
        let walks = m.walks;
        m.access(0, 0, access(Write, true));
        assert_eq!(m.walks, walks, "once written, writes are the processor's");
        m.end();
    }
}

#[test]
fn reserved_bits_fault_with_their_error_code() {
    let mut m = Long4.machine(64, &[0]);
    put(&m, Long4, 5, 0, 16 << 12 | URW | 1 << 45);

    let error = PfError::PRESENT | PfError::RSVD | PfError::USER;
    assert_eq!(m.access(0, 0, access(Read, true)), fault(0, error));
    m.end();
}

#[test]
fn with_wp_clear_the_supervisor_writes_what_users_may_not() {
    for smep in [false, true] {
        let mut m = Long4.machine(64, &[0]);
        m.load(0, |r| {
            r.cr0.remove(Cr0::WP);
            r.cr4.set(Cr4::SMEP, smep);
        });

        assert_eq!(m.access(0, 0x2000, access(Write, false)), Found::Page(17));
        // The processor has it for the supervisor's now, but may not execute it where SMEP forbids that.
        let error = PfError::PRESENT | PfError::FETCH;
        let fetched = m.access(0, 0x2000, access(Fetch, false));
        assert_eq!(fetched, if smep { fault(0x2000, error) } else { Found::Page(17) });
        let denied = PfError::PRESENT | PfError::WRITE | PfError::USER;
        assert_eq!(m.access(0, 0x2000, access(Write, true)), fault(0x2000, denied));
        assert_eq!(m.access(0, 0x2000, access(Read, true)), Found::Page(17));
        assert_eq!(m.access(0, 0x2000, access(Fetch, true)), Found::Page(17));
        assert_eq!(m.access(0, 0x2000, access(Write, false)), Found::Page(17));
        m.end();
    }
}

#[test]
fn such_a_write_is_carried_out_in_software_where_smap_or_a_key_would_have_to_be_asked() {
    for bit in [Cr4::SMAP, Cr4::PKE] {
        let mut m = Long4.machine(64, &[0]);
        m.load(0, |r| {
            r.cr0.remove(Cr0::WP);
            r.cr4.insert(bit);
            r.ac = true;
        });

        assert_eq!(m.access(0, 0x2000, access(Write, false)), Found::Emulated(17));
        // Shown as the supervisor's, the page would be read without a question now.
        m.load(0, |r| {
            r.ac = false;
            r.pkru = 1;
        });
        let error = if bit == Cr4::SMAP { PfError::PRESENT } else { PfError::PRESENT | PfError::PKEY };
        assert_eq!(m.access(0, 0x2000, access(Read, false)), fault(0x2000, error));
        m.end();
    }
}

#[test]
fn pages_made_with_wp_clear_are_not_used_with_it_set() {
    let mut m = Long4.machine(64, &[0]);
    m.load(0, |r| r.cr0.remove(Cr0::WP));
    m.access(0, 0x2000, access(Write, false));
    m.load(0, |r| r.cr0.insert(Cr0::WP));

    let denied = PfError::PRESENT | PfError::WRITE;
    assert_eq!(m.access(0, 0x2000, access(Write, false)), fault(0x2000, denied));
    m.end();
}

/// The class of shadow paging's permission faults: one table, reached with different rights, has a page for each.
#[test]
fn a_table_reached_with_fewer_rights_is_another_page() {
    let mut m = Long4.machine(64, &[0]);
    // Level 2, entry 0 leads to the table with all rights; entry 3 to the same without the right to write.
    put(&m, Long4, 4, 3, 5 << 12 | URO);

    assert_eq!(m.access(0, 0, access(Write, true)), Found::Page(16));
    let denied = PfError::PRESENT | PfError::WRITE | PfError::USER;
    assert_eq!(m.access(0, 6 << 20, access(Read, true)), Found::Page(16));
    assert_eq!(m.access(0, 6 << 20, access(Write, true)), fault(6 << 20, denied));
    assert_eq!(m.access(0, 0, access(Write, true)), Found::Page(16));
    m.end();
}

#[test]
fn a_large_page_is_kept_and_serves_all_its_addresses() {
    for (mode, base) in [(Long4, 4 << 20), (Pae, 4 << 20)] {
        let mut m = mode.machine(64, &[0]);

        assert_eq!(m.access(0, base, access(Write, true)), Found::Page(512));
        let walks = m.walks;
        assert_eq!(m.access(0, base + 0x1f_f000, access(Write, true)), Found::Page(1023));
        assert_eq!(m.walks, walks, "{mode:?}");
        m.end();
    }
}

#[test]
fn a_large_page_with_a_table_in_it_is_shown_in_small_ones() {
    // All 4 MiB of memory in one page, the guest's tables included.
    let mut m = Legacy.machine(64, &[0]);
    let at = |gfn: u64| (8 << 20) + (gfn << 12);

    assert_eq!(m.access(0, at(16), access(Write, true)), Found::Page(16));
    assert_eq!(m.access(0, at(1), access(Write, true)), Found::Emulated(1));
    assert_eq!(m.access(0, at(600), access(Write, true)), Found::Page(600));
    let walks = m.walks;
    assert_eq!(m.access(0, at(601), access(Write, true)), Found::Page(601));
    assert_eq!(m.walks, walks, "the second half has no table");
    m.end();
}

#[test]
fn a_large_page_is_split_when_a_table_comes_into_it() {
    let mut m = Long4.machine(64, &[0]);
    assert_eq!(m.access(0, (4 << 20) + 0x5000, access(Write, true)), Found::Page(517));
    // Frame 516 becomes a table.
    put(&m, Long4, 516, 0, 16 << 12 | URW);
    m.store(0, Long4.window(4, 3), 516 << 12 | URW, 8);
    m.invlpg(0, 6 << 20);

    assert_eq!(m.read(0, 6 << 20), Found::Page(16));
    m.check();
    assert_eq!(m.access(0, (4 << 20) + 0x5000, access(Write, true)), Found::Page(517));
    m.end();
}

#[test]
fn a_device_is_remembered_until_the_slots_change() {
    for mode in MODES.into_iter().filter(|m| *m != Off) {
        let mut m = mode.machine(64, &[0]);
        let at = Found::Device(Gpa((DEVICE << 12) + 8));

        assert_eq!(m.access(0, 0x3008, access(Read, true)), at);
        let walks = m.walks;
        assert_eq!(m.access(0, 0x3008, access(Write, true)), at);
        assert_eq!(m.walks, walks, "{mode:?}: no walk");
        m.generation += 1;
        assert_eq!(m.access(0, 0x3008, access(Read, true)), at);
        assert_eq!(m.walks, walks + 1, "{mode:?}");
        m.end();
    }
}

#[test]
fn what_is_remembered_of_a_device_is_asked_for_rights() {
    let mut m = Long4.machine(64, &[0]);
    put(&m, Long4, 5, 3, DEVICE << 12 | (RW & !0x42));

    assert!(matches!(m.access(0, 0x3000, access(Read, false)), Found::Device(_)));
    assert!(matches!(m.access(0, 0x3000, access(Read, false)), Found::Device(_)));
    assert_eq!(m.access(0, 0x3000, access(Read, true)), fault(0x3000, PfError::PRESENT | PfError::USER));
    assert_eq!(m.access(0, 0x3000, access(Write, false)), fault(0x3000, PfError::PRESENT | PfError::WRITE));
    m.end();
}

/// CVE-2026-23401: the guest's entry changes from memory to a device's page without anybody telling.
#[test]
fn cve_2026_23401_a_device_that_takes_the_place_of_a_page_leaves_nothing_of_it() {
    let mut m = Long4.machine(64, &[0]);
    put(&m, Long4, 5, 0, 16 << 12 | URO);
    m.access(0, 0, access(Read, true));
    put(&m, Long4, 5, 0, DEVICE << 12 | URW);
    // A write is not what the old entry allows.
    assert_eq!(m.access(0, 0, access(Write, true)), Found::Device(Gpa(DEVICE << 12)));

    m.unmap(16, 17);
    m.check();
    assert_eq!(m.access(0, 0, access(Read, true)), Found::Device(Gpa(DEVICE << 12)));
    m.end();
}

/// The class of CVE-2026-53359: a page of one role taken for another, where the frame is the same.
#[test]
fn cve_2026_53359_a_table_and_a_large_page_at_one_frame_are_two_pages() {
    for read_first in [false, true] {
        let mut m = Long4.machine(64, &[0]);
        // No large pages in the host: one of the guest's is shown by a page of small ones.
        m.unmap(600, 601);
        put(&m, Long4, 512, 0, 16 << 12 | URW);
        let (as_table, as_page) = (512 << 12 | URW, 512 << 12 | LARGE | URW);
        for entry in [as_table, as_page, as_table, as_page] {
            m.store(0, Long4.window(4, 3), entry, 8);
            m.invlpg(0, 6 << 20);
            if read_first {
                m.access(0, 6 << 20, access(Read, true));
            }
            let found = m.access(0, 6 << 20, access(Write, true));
            // The frame is a table's still, to all that is known: writes go through software or make it out of sync.
            let expected: &[Found] = match entry == as_page {
                true => &[Found::Page(512), Found::Emulated(512)],
                false => &[Found::Page(16)],
            };
            assert!(expected.contains(&found), "{found:?}");
            m.check();
        }
        m.end();
    }
}

/// The class of CVE-2026-46113: a page goes while entries of others lead to it.
#[test]
fn cve_2026_46113_nothing_leads_to_a_page_that_has_gone() {
    let mut m = Long4.machine(64, &[0, 1]);
    for n in [0, 1] {
        for gva in Long4.addresses() {
            m.access(n, gva, access(Read, true));
        }
    }
    // Each table goes while the processors are in guest mode.
    for table in [5, 4, 8, 3, 7, 1] {
        m.replace_slot(table, table + 1);
        m.check();
        for n in [0, 1] {
            assert_eq!(m.access(n, 0, access(Write, true)), Found::Page(16));
        }
    }
    m.end();
}
