/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The world switch of SVM.
 *
 * VMRUN and #VMEXIT switch RAX, RSP, RIP, RFLAGS, the control registers and CS, SS, DS, ES;
 * VMLOAD and VMSAVE switch FS, GS, TR, LDTR and the system call MSRs; everything else is done
 * here. APM, "VMRUN and VMEXIT Instructions".
 */
#include <linux/linkage.h>
#include <asm/asm.h>
#include <asm/alternative.h>
#include <asm/cpufeatures.h>
#include <asm/msr-index.h>
#include <asm/nospec-branch.h>

#define GPR(n) ((n) * 8)

	.section .noinstr.text, "ax"

/*
 * void rvmm_svm_enter(u64 vmcb_hpa, u64 gprs[16], u64 host_vmcb_hpa)
 *
 * Interrupts are off, EFER.SVME is set, VM_HSAVE_PA is valid, and host_vmcb_hpa names a page that
 * VMSAVE filled on this CPU since the window was opened. gprs is numbered as instructions encode
 * registers; RAX (0) and RSP (4) of the guest live in the VMCB and are left alone here.
 *
 * GIF is cleared over the switch, so that nothing arrives while half of each world is loaded. RFLAGS.IF
 * is set at VMRUN: with V_INTR_MASKING it decides whether a physical interrupt ends the guest.
 */
SYM_FUNC_START(rvmm_svm_enter)
	push	%rbp
	push	%rbx
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	push	%rsi
	push	%rdx
	mov	%rdi, %rax

	mov	GPR(1)(%rsi), %rcx
	mov	GPR(2)(%rsi), %rdx
	mov	GPR(3)(%rsi), %rbx
	mov	GPR(5)(%rsi), %rbp
	mov	GPR(7)(%rsi), %rdi
	mov	GPR(8)(%rsi), %r8
	mov	GPR(9)(%rsi), %r9
	mov	GPR(10)(%rsi), %r10
	mov	GPR(11)(%rsi), %r11
	mov	GPR(12)(%rsi), %r12
	mov	GPR(13)(%rsi), %r13
	mov	GPR(14)(%rsi), %r14
	mov	GPR(15)(%rsi), %r15
	mov	GPR(6)(%rsi), %rsi

	clgi
	sti
	vmload	%rax
	vmrun	%rax
	vmsave	%rax
	pop	%rax
	vmload	%rax
	cli
	stgi

	pop	%rax
	mov	%rcx, GPR(1)(%rax)
	mov	%rdx, GPR(2)(%rax)
	mov	%rbx, GPR(3)(%rax)
	mov	%rbp, GPR(5)(%rax)
	mov	%rsi, GPR(6)(%rax)
	mov	%rdi, GPR(7)(%rax)
	mov	%r8, GPR(8)(%rax)
	mov	%r9, GPR(9)(%rax)
	mov	%r10, GPR(10)(%rax)
	mov	%r11, GPR(11)(%rax)
	mov	%r12, GPR(12)(%rax)
	mov	%r13, GPR(13)(%rax)
	mov	%r14, GPR(14)(%rax)
	mov	%r15, GPR(15)(%rax)

	/* The guest's return predictions must not be used by the host. */
	FILL_RETURN_BUFFER %rax, RSB_CLEAR_LOOPS, X86_FEATURE_RSB_VMEXIT
#ifdef CONFIG_MITIGATION_UNRET_ENTRY
	ALTERNATIVE "", "call entry_untrain_ret", X86_FEATURE_UNRET
#endif
	ALTERNATIVE "jmp .Lno_ibpb", "", X86_FEATURE_IBPB_ON_VMEXIT
	mov	$MSR_IA32_PRED_CMD, %ecx
	mov	$PRED_CMD_IBPB, %eax
	xor	%edx, %edx
	wrmsr
.Lno_ibpb:

	/* Nor its register values by speculation past this point. */
	xor	%eax, %eax
	xor	%ecx, %ecx
	xor	%edx, %edx
	xor	%esi, %esi
	xor	%edi, %edi
	xor	%r8d, %r8d
	xor	%r9d, %r9d
	xor	%r10d, %r10d
	xor	%r11d, %r11d

	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbx
	pop	%rbp
	RET
SYM_FUNC_END(rvmm_svm_enter)
