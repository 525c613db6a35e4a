/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The world switch of VMX.
 *
 * VMLAUNCH, VMRESUME and VM exits switch RSP, RIP, RFLAGS, the control registers but CR2 and CR8, the
 * segment registers and the MSRs that the VMCS holds; the general registers are switched here, the
 * rest by the callers. SDM, "VM Entries" and "VM Exits".
 */
#include <linux/linkage.h>
#include <asm/asm.h>
#include <asm/alternative.h>
#include <asm/cpufeatures.h>
#include <asm/msr-index.h>
#include <asm/nospec-branch.h>
#include <asm/percpu.h>
#include <asm/segment.h>

#include "../host/enter.h"

/* Encodings of the VMCS fields HOST_RSP and HOST_RIP. */
#define HOST_RSP 0x6c14
#define HOST_RIP 0x6c16

	/* What VERW looks at: any selector that may be written. */
	.section .rodata, "a"
.Lselector:
	.word	__KERNEL_DS

	.section .noinstr.text, "ax"

/*
 * u32 rvmm_vmx_enter(u64 gprs[16], u32 launched)
 *
 * Interrupts are off and a VMCS is current. gprs is numbered as instructions encode registers; RSP (4)
 * of the guest lives in the VMCS and is left alone here. Returns 0 after an exit, 1 where the entry
 * instruction itself failed (CF or ZF set): it falls through to where exits arrive, and an exit clears
 * both flags.
 */
SYM_FUNC_START(rvmm_vmx_enter)
	push_callee_saved
	push	%rdi

	mov	$HOST_RSP, %ecx
	vmwrite	%rsp, %rcx
	lea	.Lexit(%rip), %rdx
	mov	$HOST_RIP, %ecx
	vmwrite	%rdx, %rcx

	/* VERW, below, changes ZF but not CF. */
	bt	$0, %esi

	load_gprs rdi, rax, rcx, rdx, rbx, rbp, rsi, r8, r9, r10, r11, r12, r13, r14, r15
	load_gprs rdi, rdi

	/* What the host left in the processor's buffers must not be sampled by the guest. */
	ALTERNATIVE "", "verw .Lselector(%rip)", X86_FEATURE_CLEAR_CPU_BUF_VM
	jc	.Lresume
.Llaunch:
	vmlaunch
	jmp	.Lexit
.Lresume:
	vmresume
.Lexit:
	/* No instruction up to the SETcc may change CF or ZF. */
	xchg	%rdi, (%rsp)
	save_gprs rdi, rax, rcx, rdx, rbx, rbp, rsi, r8, r9, r10, r11, r12, r13, r14, r15
	pop	%rax
	mov	%rax, gpr_rdi * 8(%rdi)
	setbe	%bl
	movzbl	%bl, %ebx

	/* The guest's return predictions must not be used by the host. */
	FILL_RETURN_BUFFER %rcx, RSB_CLEAR_LOOPS, X86_FEATURE_RSB_VMEXIT, X86_FEATURE_RSB_VMEXIT_LITE
	ibpb_on_exit
	/* IBRS without its enhanced form counts from the last write. */
	ALTERNATIVE "jmp .Lno_ibrs", "", X86_FEATURE_KERNEL_IBRS
	mov	$MSR_IA32_SPEC_CTRL, %ecx
	mov	PER_CPU_VAR(x86_spec_ctrl_current), %eax
	xor	%edx, %edx
.Librs:
	wrmsr
.Lno_ibrs:
	mov	%ebx, %eax

	/* Nor its register values by speculation past this point. */
	clear_scratch

	pop_callee_saved
	RET

	/* A fault, where the processor is not in VMX operation. */
.Lrefused:
	stc
	jmp	.Lexit

	_ASM_EXTABLE_TYPE(.Librs, .Lno_ibrs, EX_TYPE_WRMSR)
	_ASM_EXTABLE(.Llaunch, .Lrefused)
	_ASM_EXTABLE(.Lresume, .Lrefused)
SYM_FUNC_END(rvmm_vmx_enter)
