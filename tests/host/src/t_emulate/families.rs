// SPDX-License-Identifier: GPL-2.0

//! Instructions by example, in the modes that the test's own processor is not in.

use super::machine::{Asked, Box86, RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP};
use crate::arch::addr::AccessWidth;
use crate::arch::cr::{Cr0, Cr4, Rflags};
use crate::arch::exception::{CpuException, ExceptionVector};
use crate::arch::segment::{SegAttr, SegReg};
use crate::vcpu::emulate::decode::CodeMode::{self, Bits16, Bits32, Bits64};
use crate::vcpu::emulate::execute::{emulate, fetch_and_decode};
use crate::vcpu::emulate::machine::{EmulatedStep, InsnMachine, StopReason};

/// 64 KiB of memory at linear address 0, RIP at 0x100, the stack at 0x8000.
fn machine(mode: CodeMode, code: &[u8]) -> Box86 {
    let mut m = Box86::new(mode, 0, vec![0; 0x10000]);
    m.rip = 0x100;
    m.gpr[usize::from(RSP)] = 0x8000;
    m.put(0x100, code);
    m
}

fn gpr(m: &Box86, n: u8) -> u64 {
    m.gpr[usize::from(n)]
}

fn set(m: &mut Box86, n: u8, value: u64) {
    m.gpr[usize::from(n)] = value;
}

/// Runs the instruction at RIP; RIP must move behind it.
fn run(m: &mut Box86, len: u64) {
    let rip = m.rip;
    assert_eq!(emulate(m, None), Ok(()));
    assert_eq!(m.rip, rip + len);
}

fn fault(vector: ExceptionVector) -> EmulatedStep<()> {
    Err(StopReason::Fault(CpuException::with_error(vector, 0)))
}

const UD: EmulatedStep<()> = Err(StopReason::Fault(CpuException::UD));

#[test]
fn a_store_in_real_mode_goes_to_segment_times_sixteen() {
    let mut m = machine(Bits16, &[0x26, 0x88, 0x07]); // mov es:[bx], al
    m.seg[0].base = 0x2000;
    set(&mut m, RBX, 0xffff_0034);
    set(&mut m, RAX, 0xa5);

    run(&mut m, 3);

    assert_eq!(m.bytes(0x2034, 1), [0xa5]);
}

#[test]
fn sixteen_bit_addresses_wrap_within_the_segment() {
    let mut m = machine(Bits16, &[0x8a, 0x40, 0x10]); // mov al, [bx+si+0x10]
    set(&mut m, RBX, 0xfff0);
    set(&mut m, RSI, 0x0234);
    m.put(0x0234, &[0x5a]);

    run(&mut m, 3);

    assert_eq!(gpr(&m, RAX), 0x5a);
}

#[test]
fn bit_strings_with_sixteen_bit_addresses_wrap_too() {
    let mut m = machine(Bits16, &[0x0f, 0xab, 0x07]); // bts [bx], ax
    set(&mut m, RBX, 0x0002);
    set(&mut m, RAX, 0xffe0); // bit -32: four bytes down, below zero

    run(&mut m, 3);

    assert_eq!(m.bytes(0xfffe, 1), [1]);
}

#[test]
fn an_access_over_the_limit_faults_by_segment() {
    let mut m = machine(Bits16, &[0x8b, 0x07]); // mov ax, [bx]
    set(&mut m, RBX, 0xffff);
    assert_eq!(emulate(&mut m, None), fault(ExceptionVector::GP));

    let mut m = machine(Bits16, &[0x8b, 0x46, 0x00]); // mov ax, [bp]
    set(&mut m, RBP, 0xffff);
    assert_eq!(emulate(&mut m, None), fault(ExceptionVector::SS));

    let mut m = machine(Bits32, &[0x8b, 0x03]); // mov eax, [ebx]
    m.seg[3].limit = 0xfff;
    set(&mut m, RBX, 0xffd);
    assert_eq!(emulate(&mut m, None), fault(ExceptionVector::GP));
    set(&mut m, RBX, 0xffc);
    run(&mut m, 2);
}

#[test]
fn an_expand_down_segment_is_valid_above_its_limit() {
    let mut m = machine(Bits32, &[0x8b, 0x03]); // mov eax, [ebx]
    m.seg[3].attr = SegAttr(0xc097);
    m.seg[3].limit = 0xfff;
    set(&mut m, RBX, 0xfff);
    assert_eq!(emulate(&mut m, None), fault(ExceptionVector::GP));
    set(&mut m, RBX, 0x1000);
    run(&mut m, 2);
}

#[test]
fn the_type_of_a_segment_is_checked_in_protected_mode() {
    let mut read_only = machine(Bits32, &[0x89, 0x03]);
    read_only.seg[3].attr = SegAttr(0xc091);
    assert_eq!(emulate(&mut read_only, None), fault(ExceptionVector::GP));

    let mut null = machine(Bits32, &[0x8b, 0x03]);
    null.seg[3].attr = SegAttr(0x1_0000);
    assert_eq!(emulate(&mut null, None), fault(ExceptionVector::GP));

    let mut code = machine(Bits32, &[0x2e, 0x89, 0x03]);
    assert_eq!(emulate(&mut code, None), fault(ExceptionVector::GP));

    let mut execute_only = machine(Bits32, &[0x2e, 0x8b, 0x03]);
    execute_only.seg[1].attr = SegAttr(0xc099);
    assert_eq!(emulate(&mut execute_only, None), fault(ExceptionVector::GP));
}

#[test]
fn an_address_that_is_not_canonical_faults_by_base_register() {
    let mut m = machine(Bits64, &[0x8b, 0x03]); // mov eax, [rbx]
    set(&mut m, RBX, 0x8000_0000_0000);
    assert_eq!(emulate(&mut m, None), fault(ExceptionVector::GP));

    let mut m = machine(Bits64, &[0x8b, 0x45, 0x00]); // mov eax, [rbp]
    set(&mut m, RBP, 0x7fff_ffff_fffd);
    assert_eq!(emulate(&mut m, None), fault(ExceptionVector::SS));

    // With five levels the same address is merely not mapped.
    m.cr[4] = Cr4::LA57.bits();
    assert!(matches!(emulate(&mut m, None), Err(StopReason::Fault(e)) if e.vector == ExceptionVector::PF));
}

#[test]
fn fs_and_gs_have_a_base_in_64_bit_mode_and_others_have_none() {
    let mut m = machine(Bits64, &[0x65, 0x8b, 0x03]); // mov eax, gs:[rbx]
    m.seg[5].base = 0x3000;
    m.put(0x3040, &[1, 2, 3, 4]);
    set(&mut m, RBX, 0x40);
    run(&mut m, 3);
    assert_eq!(gpr(&m, RAX), 0x0403_0201);

    let mut m = machine(Bits64, &[0x26, 0x8b, 0x03]); // mov eax, es:[rbx]
    m.seg[0].base = 0x3000;
    m.put(0x40, &[9]);
    set(&mut m, RBX, 0x40);
    run(&mut m, 3);
    assert_eq!(gpr(&m, RAX), 9);
}

#[test]
fn moffs_has_the_address_size() {
    let mut m = machine(Bits64, &[0xa2, 0x45, 0x23, 0, 0, 0, 0, 0, 0]); // mov [0x2345], al
    set(&mut m, RAX, 0x77);
    run(&mut m, 9);
    assert_eq!(m.bytes(0x2345, 1), [0x77]);

    let mut m = machine(Bits16, &[0xa1, 0x45, 0x23]); // mov ax, [0x2345]
    set(&mut m, RAX, 0xffff_ffff);
    m.put(0x2345, &[0x11, 0x22]);
    run(&mut m, 3);
    assert_eq!(gpr(&m, RAX), 0xffff_2211);
}

#[test]
fn a_repeated_store_in_real_mode_counts_in_cx() {
    let mut m = machine(Bits16, &[0xf3, 0xab]); // rep stosw
    m.seg[0].base = 0x1000;
    set(&mut m, RDI, 0xabcd_0010);
    set(&mut m, RCX, 0xabcd_0003);
    set(&mut m, RAX, 0x1234);

    run(&mut m, 2);

    assert_eq!(m.bytes(0x1010, 8), [0x34, 0x12, 0x34, 0x12, 0x34, 0x12, 0, 0]);
    assert_eq!((gpr(&m, RDI), gpr(&m, RCX)), (0xabcd_0016, 0xabcd_0000));
}

#[test]
fn a_repetition_of_none_only_moves_rip() {
    let mut m = machine(Bits64, &[0xf3, 0xa4]);
    let before = m.clone();

    run(&mut m, 2);

    assert_eq!(m, Box86 { rip: 0x102, ..before });
}

#[test]
fn string_input_takes_one_element_at_a_time_from_the_port() {
    let mut m = machine(Bits32, &[0xf3, 0x66, 0x6d]); // rep insw
    set(&mut m, RDX, 0x1f0);
    set(&mut m, RDI, 0x2000);
    set(&mut m, RCX, 3);
    m.port_input = vec![0x1111, 0x2222, 0x3333];

    run(&mut m, 3);

    assert_eq!(m.bytes(0x2000, 6), [0x11, 0x11, 0x22, 0x22, 0x33, 0x33]);
    assert_eq!(m.asked, [[Asked::In(0x1f0, AccessWidth::B2), Asked::Commit]; 3].concat());
    assert_eq!((gpr(&m, RCX), gpr(&m, RDI)), (0, 0x2006));
}

#[test]
fn string_output_goes_down_with_the_direction_flag() {
    let mut m = machine(Bits64, &[0xf3, 0x6e]); // rep outsb
    m.rflags |= Rflags::DF.bits();
    set(&mut m, RDX, 0x3f8);
    set(&mut m, RSI, 0x2001);
    set(&mut m, RCX, 2);
    m.put(0x2000, b"ab");

    run(&mut m, 2);

    let out = |byte| Asked::Out(0x3f8, AccessWidth::B1, u32::from(byte));
    assert_eq!(m.asked, [out(b'b'), Asked::Commit, out(b'a'), Asked::Commit]);
    assert_eq!(gpr(&m, RSI), 0x1fff);
}

#[test]
fn ports_are_32_bits_wide_at_most_and_in_clears_the_upper_half() {
    let mut m = machine(Bits64, &[0x48, 0xed]); // in eax, dx with REX.W
    set(&mut m, RAX, u64::MAX);
    set(&mut m, RDX, 0x1_0cf8);
    m.port_input = vec![0x8000_0000];
    run(&mut m, 2);
    assert_eq!(gpr(&m, RAX), 0x8000_0000);
    assert_eq!(m.asked, [Asked::In(0xcf8, AccessWidth::B4)]);

    let mut m = machine(Bits64, &[0xe6, 0x80]); // out 0x80, al
    set(&mut m, RAX, 0x1234);
    run(&mut m, 2);
    assert_eq!(m.asked, [Asked::Out(0x80, AccessWidth::B1, 0x34)]);
}

#[test]
fn lock_is_refused_where_it_does_not_belong() {
    for code in [
        &[0xf0, 0x89, 0x03][..],   // mov
        &[0xf0, 0x01, 0xc3],       // add to a register
        &[0xf0, 0x03, 0x03],       // add from memory
        &[0xf0, 0x39, 0x03],       // cmp
        &[0xf0, 0x83, 0x3b, 1],    // cmp with an immediate
        &[0xf0, 0x0f, 0xa3, 0x03], // bt
        &[0xf0, 0xa4],             // movs
        &[0xf0, 0xf7, 0x23],       // mul
    ] {
        let mut m = machine(Bits64, code);
        set(&mut m, RBX, 0x2000);
        assert_eq!(emulate(&mut m, None), UD, "{code:02x?}");
    }
}

#[test]
fn a_locked_operation_counts_what_other_processors_did() {
    let mut m = machine(Bits64, &[0xf0, 0xff, 0x03]); // lock inc dword [rbx]
    set(&mut m, RBX, 0x2000);
    m.rivals = 5;

    run(&mut m, 3);

    assert_eq!(m.bytes(0x2000, 4), [6, 0, 0, 0]);
}

#[test]
fn an_exchange_with_memory_is_atomic_without_a_prefix() {
    let mut m = machine(Bits64, &[0x87, 0x0b]); // xchg [rbx], ecx
    set(&mut m, RBX, 0x2000);
    set(&mut m, RCX, 0xaaaa_bbbb_cccc_dddd);
    m.put(0x2000, &[1, 2, 3, 4]);
    m.rivals = 1;

    run(&mut m, 2);

    assert_eq!(gpr(&m, RCX), 0x0403_0202);
    assert_eq!(m.bytes(0x2000, 4), [0xdd, 0xdd, 0xcc, 0xcc]);
}

#[test]
fn cmpxchg16b_needs_alignment() {
    let mut m = machine(Bits64, &[0x48, 0x0f, 0xc7, 0x0b]);
    set(&mut m, RBX, 0x2008);
    assert_eq!(emulate(&mut m, None), fault(ExceptionVector::GP));
}

#[test]
fn control_registers_are_read_and_written_at_cpl_0_alone() {
    let mut m = machine(Bits32, &[0x0f, 0x22, 0xd8]); // mov cr3, eax
    set(&mut m, RAX, 0x1234_5000);
    run(&mut m, 3);
    assert_eq!(m.cr[3], 0x1234_5000);

    let mut m = machine(Bits64, &[0x44, 0x0f, 0x20, 0xc1]); // mov rcx, cr8
    m.cr[8] = 9;
    run(&mut m, 4);
    assert_eq!(gpr(&m, RCX), 9);

    let mut m = machine(Bits64, &[0x0f, 0x22, 0xd8]);
    m.cpl = 3;
    assert_eq!(emulate(&mut m, None), fault(ExceptionVector::GP));

    let mut m = machine(Bits64, &[0x0f, 0x20, 0xe8]); // cr5
    assert_eq!(emulate(&mut m, None), UD);

    let mut m = machine(Bits64, &[0x0f, 0x22, 0xe0]); // mov cr4, rax: refused
    set(&mut m, RAX, u64::MAX);
    assert_eq!(emulate(&mut m, None), fault(ExceptionVector::GP));
    assert_eq!(m.rip, 0x100);
}

#[test]
fn a_locked_move_of_cr0_is_cr8() {
    let mut m = machine(Bits32, &[0xf0, 0x0f, 0x22, 0xc0]);
    set(&mut m, RAX, 5);
    let cr0 = m.cr[0];

    run(&mut m, 4);

    assert_eq!((m.cr[8], m.cr[0]), (5, cr0));
}

#[test]
fn lmsw_sets_protection_but_never_clears_it() {
    let mut m = machine(Bits32, &[0x0f, 0x01, 0xf0]);
    m.cr[0] = (Cr0::PE | Cr0::TS | Cr0::NE).bits();
    set(&mut m, RAX, 0xffff_0002);

    run(&mut m, 3);

    assert_eq!(m.cr[0], (Cr0::PE | Cr0::MP | Cr0::NE).bits());
}

#[test]
fn smsw_clts_and_invlpg() {
    let mut m = machine(Bits32, &[0x0f, 0x01, 0xe0]); // smsw eax
    m.cr[0] = 0x8005_003b;
    run(&mut m, 3);
    assert_eq!(gpr(&m, RAX), 0x8005_003b);

    let mut m = machine(Bits32, &[0x0f, 0x06]);
    m.cr[0] = (Cr0::PE | Cr0::TS).bits();
    run(&mut m, 2);
    assert_eq!(m.cr[0], Cr0::PE.bits());

    let mut m = machine(Bits64, &[0x0f, 0x01, 0x3b]); // invlpg [rbx]
    set(&mut m, RBX, 0x1234);
    run(&mut m, 3);
    assert_eq!(m.asked, [Asked::Invlpg(0x1234)]);
}

#[test]
fn near_branches_go_where_the_manual_says() {
    let mut jump = machine(Bits16, &[0xe9, 0xfd, 0xff]); // jmp -3
    run(&mut jump, 0);

    let mut taken = machine(Bits32, &[0x74, 0x10]);
    taken.rflags |= Rflags::ZF.bits();
    run(&mut taken, 0x12);

    let mut not_taken = machine(Bits32, &[0x75, 0x10]);
    not_taken.rflags |= Rflags::ZF.bits();
    run(&mut not_taken, 2);

    let mut looped = machine(Bits64, &[0xe2, 0x20]);
    set(&mut looped, RCX, 2);
    run(&mut looped, 0x22);
    assert_eq!(gpr(&looped, RCX), 1);

    let mut done = machine(Bits64, &[0xe2, 0x20]);
    set(&mut done, RCX, 1);
    run(&mut done, 2);
    assert_eq!(gpr(&done, RCX), 0);

    let mut wide = machine(Bits64, &[0xff, 0xe0]); // jmp rax
    set(&mut wide, RAX, 0x8000_0000_0000);
    assert_eq!(emulate(&mut wide, None), fault(ExceptionVector::GP));

    let mut beyond = machine(Bits32, &[0xeb, 0x70]);
    beyond.seg[1].limit = 0x150;
    assert_eq!(emulate(&mut beyond, None), fault(ExceptionVector::GP));
}

#[test]
fn a_call_and_a_return_come_back() {
    let mut m = machine(Bits16, &[0xe8, 0x10, 0x00]); // call +0x10
    m.put(0x113, &[0xc2, 0x04, 0x00]); // ret 4
    run(&mut m, 0x13);
    assert_eq!((gpr(&m, RSP), m.bytes(0x7ffe, 2)), (0x7ffe, &[0x03, 0x01][..]));

    assert_eq!(emulate(&mut m, None), Ok(()));

    assert_eq!((m.rip, gpr(&m, RSP)), (0x103, 0x8004));
}

#[test]
fn all_registers_are_pushed_and_popped() {
    let mut m = machine(Bits32, &[0x60, 0x61]);
    for n in 0..8u8 {
        if n != RSP {
            set(&mut m, n, 0x1000 + u64::from(n));
        }
    }
    let before = m.clone();
    run(&mut m, 1);
    assert_eq!(gpr(&m, RSP), 0x7fe0);
    assert_eq!(m.bytes(0x7fec, 4), [0x00, 0x80, 0, 0]); // ESP as it was
    assert_eq!(m.bytes(0x7ffc, 4), [0x00, 0x10, 0, 0]); // EAX on top
    m.gpr[0] = 0;
    m.gpr[7] = 0;

    run(&mut m, 1);

    assert_eq!(m.gpr, before.gpr);
}

#[test]
fn popf_respects_privilege() {
    let mut m = machine(Bits32, &[0x9d]);
    m.put(0x8000, &0x0000_3202u32.to_le_bytes());
    run(&mut m, 1);
    assert_eq!(m.rflags, 0x3202);

    let mut m = machine(Bits32, &[0x9d]);
    m.cpl = 3;
    m.put(0x8000, &0x0000_3203u32.to_le_bytes());
    run(&mut m, 1);
    assert_eq!(m.rflags, 3);
}

#[test]
fn segment_registers_load_a_paragraph_number_in_real_mode() {
    let mut m = machine(Bits16, &[0x8e, 0xc0]); // mov es, ax
    set(&mut m, RAX, 0xb800);
    run(&mut m, 2);
    assert_eq!((m.segment(SegReg::Es).selector, m.segment(SegReg::Es).base), (0xb800, 0xb8000));

    let mut m = machine(Bits16, &[0x8e, 0xc8]); // mov cs, ax
    assert_eq!(emulate(&mut m, None), UD);

    let mut m = machine(Bits32, &[0x8c, 0x1b]); // mov [ebx], ds
    set(&mut m, RBX, 0x2000);
    m.put(0x2000, &[0xff; 4]);
    run(&mut m, 2);
    assert_eq!(m.bytes(0x2000, 4), [16, 0, 0xff, 0xff]);
}

#[test]
fn the_resume_flag_goes_with_the_instruction() {
    let mut m = machine(Bits64, &[0x90]);
    m.rflags |= Rflags::RF.bits();

    run(&mut m, 1);

    assert_eq!(m.rflags, 2);
}

#[test]
fn an_instruction_over_two_pages_is_fetched_from_both() {
    let mut m = machine(Bits64, &[]);
    m.rip = 0x0ffd;
    m.put(0x0ffd, &[0x48, 0xc7, 0xc0, 1, 2, 3, 4]); // mov rax, imm32
    let insn = fetch_and_decode(&mut m, None).unwrap();
    assert_eq!(insn.len, 7);

    run(&mut m, 7);

    assert_eq!(gpr(&m, RAX), 0x0403_0201);
}

#[test]
fn the_next_page_is_left_alone_where_the_instruction_ends_before() {
    let mut m = machine(Bits64, &[]);
    m.retry = 0x1000..0x2000;
    m.rip = 0x0ffe;
    m.put(0x0ffe, &[0x89, 0xc3]);
    run(&mut m, 2);

    m.rip = 0x0fff;
    m.put(0x0fff, &[0x89]);
    assert_eq!(emulate(&mut m, None), Err(StopReason::Retry));
}

#[test]
fn saved_bytes_are_used_and_completed_from_memory() {
    let mut m = machine(Bits64, &[0x04, 0x01]);
    m.put(0x100, &[0xff, 0x05]); // memory has changed since: add al, 5 was add al, 1

    assert_eq!(emulate(&mut m, Some(&[0x04])), Ok(()));

    assert_eq!((gpr(&m, RAX), m.rip), (5, 0x102));
}

#[test]
fn code_beyond_the_segment_faults() {
    let mut m = machine(Bits16, &[0xb8, 1, 2]);
    m.seg[1].limit = 0x101;
    assert_eq!(emulate(&mut m, None), fault(ExceptionVector::GP));
    m.seg[1].limit = 0x102;
    run(&mut m, 3);
}

#[test]
fn sixteen_bit_flags_and_increments_work_outside_64_bit_mode() {
    let mut m = machine(Bits16, &[0x48]); // dec ax
    set(&mut m, RAX, 0xffff_0000);
    run(&mut m, 1);
    assert_eq!(gpr(&m, RAX), 0xffff_ffff);

    let mut m = machine(Bits32, &[0x40]); // inc eax
    set(&mut m, RAX, 0x7fff_ffff);
    run(&mut m, 1);
    assert_eq!(gpr(&m, RAX), 0x8000_0000);
    assert_ne!(m.rflags & Rflags::OF.bits(), 0);
}
