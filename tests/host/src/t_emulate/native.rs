// SPDX-License-Identifier: GPL-2.0

//! Runs one instruction on the processor under the test.
//!
//! A page of code loads all registers and the flags from a page of data, meets the instruction, and
//! stores them back. Instructions must not fault, branch, or touch memory outside [`Native::memory`].

#![expect(unsafe_code, reason = "runs instructions made of bytes")]

use core::ffi::c_void;

const PAGE: usize = 4096;
/// Memory that instructions under test may touch.
pub(super) const MEMORY: usize = 2 * PAGE;

extern "C" {
    fn mmap(addr: *mut c_void, len: usize, prot: i32, flags: i32, fd: i32, off: i64) -> *mut c_void;
    fn munmap(addr: *mut c_void, len: usize) -> i32;
}

/// General registers and RFLAGS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Regs {
    pub(super) gpr: [u64; 16],
    pub(super) rflags: u64,
}

/// The mapping: one page of code, one of register values, then memory.
pub(super) struct Native {
    base: *mut u8,
}

impl Native {
    pub(super) fn new() -> Native {
        const READ_WRITE_EXEC: i32 = 7;
        const PRIVATE_ANONYMOUS_32BIT: i32 = 0x62;
        // SAFETY: A fresh anonymous mapping; nothing else is at the address that the kernel picks.
        let base = unsafe {
            mmap(core::ptr::null_mut(), 2 * PAGE + MEMORY, READ_WRITE_EXEC, PRIVATE_ANONYMOUS_32BIT, -1, 0)
        };
        assert!(base as isize != -1, "no executable memory");
        Native { base: base.cast() }
    }

    /// Linear address of the memory.
    pub(super) fn memory_base(&self) -> u64 {
        self.base as u64 + 2 * PAGE as u64
    }

    fn memory(&mut self) -> &mut [u8] {
        // SAFETY: The mapping is this long, and borrowed through `self`.
        unsafe { core::slice::from_raw_parts_mut(self.base.add(2 * PAGE), MEMORY) }
    }

    fn slot(&self, n: usize) -> *mut u64 {
        // SAFETY: `n` is at most 17: inside the second page.
        unsafe { self.base.add(PAGE + 8 * n).cast() }
    }

    /// Returns the address at which [`Native::run`] will put the instruction.
    pub(super) fn rip(&self) -> u64 {
        self.base as u64 + u64::try_from(self.prologue().len()).unwrap()
    }

    /// `opcode` with the slot `n` as its RIP-relative operand; `at` is where the code will stand.
    fn with_slot(&self, code: &mut Vec<u8>, opcode: &[u8], n: usize) {
        code.extend_from_slice(opcode);
        let next = code.len() + 4;
        let disp = i32::try_from(PAGE + 8 * n).unwrap() - i32::try_from(next).unwrap();
        code.extend_from_slice(&disp.to_le_bytes());
    }

    fn prologue(&self) -> Vec<u8> {
        let mut code = vec![0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57];
        self.with_slot(&mut code, &[0x48, 0x89, 0x25], 17); // mov [save], rsp
        self.with_slot(&mut code, &[0xff, 0x35], 16); // push [rflags]
        code.push(0x9d); // popf
        for n in 0..16u8 {
            let rex = 0x48 | (n >> 3) << 2;
            self.with_slot(&mut code, &[rex, 0x8b, 0x05 | (n & 7) << 3], usize::from(n));
        }
        code
    }

    /// Runs `insn` from `regs` and `memory`, and puts into both what it leaves.
    pub(super) fn run(&mut self, insn: &[u8], regs: &mut Regs, memory: &mut [u8]) {
        let mut code = self.prologue();
        code.extend_from_slice(insn);
        for n in 0..16u8 {
            let rex = 0x48 | (n >> 3) << 2;
            self.with_slot(&mut code, &[rex, 0x89, 0x05 | (n & 7) << 3], usize::from(n));
        }
        self.with_slot(&mut code, &[0x48, 0x8b, 0x25], 17); // mov rsp, [save]
        code.push(0x9c); // pushf
        self.with_slot(&mut code, &[0x8f, 0x05], 16); // pop [rflags]
        code.extend_from_slice(&[0xfc, 0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3]);
        assert!(code.len() <= PAGE);
        self.memory().copy_from_slice(memory);
        for (n, value) in regs.gpr.iter().chain([&regs.rflags]).enumerate() {
            // SAFETY: A slot is an aligned u64 of the mapping.
            unsafe { self.slot(n).write_volatile(*value) };
        }
        // SAFETY: The code fits its page (asserted); no reference to that page exists.
        unsafe { core::ptr::copy_nonoverlapping(code.as_ptr(), self.base, code.len()) };
        // SAFETY: The page holds a function of this type.
        let run: extern "C" fn() = unsafe { core::mem::transmute(self.base) };
        run();
        for (n, value) in regs.gpr.iter_mut().chain([&mut regs.rflags]).enumerate() {
            // SAFETY: A slot is an aligned u64 of the mapping.
            *value = unsafe { self.slot(n).read_volatile() };
        }
        memory.copy_from_slice(self.memory());
    }
}

impl Drop for Native {
    fn drop(&mut self) {
        // SAFETY: This is the mapping of `new`, and nothing borrows it any more.
        unsafe { munmap(self.base.cast(), 2 * PAGE + MEMORY) };
    }
}
