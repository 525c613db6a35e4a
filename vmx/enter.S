/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The world switch of VMX.
 *
 * VMLAUNCH, VMRESUME and VM exits switch RSP, RIP, RFLAGS, the control registers but CR2 and CR8, the
 * segment registers and the MSRs that the VMCS holds; the general registers are switched here, the
 * rest by the callers. SDM, "VM Entries" and "VM Exits".
 */
#include <linux/linkage.h>
#include <linux/objtool.h>
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

	/* CF is what clear_cpu_buffers leaves. */
	bt	$0, %esi

	load_gprs rdi, rax, rcx, rdx, rbx, rbp, rsi, r8, r9, r10, r11, r12, r13, r14, r15
	load_gprs rdi, rdi

	clear_cpu_buffers
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
	/* Where the host wants it: its indirect branches do not follow the guest's branch history. */
	ALTERNATIVE "", "call rvmm_clear_branch_history", X86_FEATURE_CLEAR_BHB_VMEXIT
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

/*
 * Fills the branch history with branches of its own. Changes EAX, ECX and the flags.
 *
 * Intel, "Branch History Injection and Intra-mode Branch Target Injection", the sequence in software; the kernel's
 * own copy is closed to modules. Five times five taken branches, each outer turn by a call and a return so that the
 * inner loop is not predicted as one. It is called only on processors that have no control for it
 * (BHI_DIS_S, which the host sets in SPEC_CTRL and which stays in force).
 */
SYM_FUNC_START_LOCAL(rvmm_clear_branch_history)
	push	%rbp
	mov	%rsp, %rbp
	mov	$5, %ecx
	ANNOTATE_INTRA_FUNCTION_CALL
	call	.Louter
	jmp	.Lcleared
	/* Returns in the upper half of a cache line are not open to indirect target selection. */
	.balign	64, 0xcc
	.skip	32 - (.Louter_ret - .Louter), 0xcc
.Louter:
	ANNOTATE_INTRA_FUNCTION_CALL
	call	.Linner
.Louter_ret:
	RET
	.balign	64, 0xcc
	.skip	32 - (.Linner_ret - .Linner), 0xcc
.Linner:
	mov	$5, %eax
.Lbranch:
	jmp	.Lcount
	nop
.Lcount:
	sub	$1, %eax
	jnz	.Lbranch
	sub	$1, %ecx
	jnz	.Louter
.Linner_ret:
	RET
.Lcleared:
	lfence
	pop	%rbp
	RET
SYM_FUNC_END(rvmm_clear_branch_history)
STACK_FRAME_NON_STANDARD(rvmm_clear_branch_history)
