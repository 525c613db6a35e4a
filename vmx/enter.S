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

#define GPR(n) ((n) * 8)

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
	push	%rbp
	push	%rbx
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	push	%rdi

	mov	$HOST_RSP, %ecx
	vmwrite	%rsp, %rcx
	lea	.Lexit(%rip), %rdx
	mov	$HOST_RIP, %ecx
	vmwrite	%rdx, %rcx

	/* VERW, below, changes ZF but not CF. */
	bt	$0, %esi

	mov	GPR(0)(%rdi), %rax
	mov	GPR(1)(%rdi), %rcx
	mov	GPR(2)(%rdi), %rdx
	mov	GPR(3)(%rdi), %rbx
	mov	GPR(5)(%rdi), %rbp
	mov	GPR(6)(%rdi), %rsi
	mov	GPR(8)(%rdi), %r8
	mov	GPR(9)(%rdi), %r9
	mov	GPR(10)(%rdi), %r10
	mov	GPR(11)(%rdi), %r11
	mov	GPR(12)(%rdi), %r12
	mov	GPR(13)(%rdi), %r13
	mov	GPR(14)(%rdi), %r14
	mov	GPR(15)(%rdi), %r15
	mov	GPR(7)(%rdi), %rdi

	/* What the host left in the processor's buffers must not be sampled by the guest. */
	ALTERNATIVE "", "verw .Lselector(%rip)", X86_FEATURE_CLEAR_CPU_BUF_VM
	jc	.Lresume
	vmlaunch
	jmp	.Lexit
.Lresume:
	vmresume
.Lexit:
	/* No instruction up to the SETcc may change CF or ZF. */
	xchg	%rdi, (%rsp)
	mov	%rax, GPR(0)(%rdi)
	mov	%rcx, GPR(1)(%rdi)
	mov	%rdx, GPR(2)(%rdi)
	mov	%rbx, GPR(3)(%rdi)
	mov	%rbp, GPR(5)(%rdi)
	mov	%rsi, GPR(6)(%rdi)
	mov	%r8, GPR(8)(%rdi)
	mov	%r9, GPR(9)(%rdi)
	mov	%r10, GPR(10)(%rdi)
	mov	%r11, GPR(11)(%rdi)
	mov	%r12, GPR(12)(%rdi)
	mov	%r13, GPR(13)(%rdi)
	mov	%r14, GPR(14)(%rdi)
	mov	%r15, GPR(15)(%rdi)
	pop	%rax
	mov	%rax, GPR(7)(%rdi)
	setbe	%bl
	movzbl	%bl, %ebx

	/* The guest's return predictions must not be used by the host. */
	FILL_RETURN_BUFFER %rcx, RSB_CLEAR_LOOPS, X86_FEATURE_RSB_VMEXIT, X86_FEATURE_RSB_VMEXIT_LITE
	ALTERNATIVE "jmp .Lno_ibpb", "", X86_FEATURE_IBPB_ON_VMEXIT
	mov	$MSR_IA32_PRED_CMD, %ecx
	mov	$PRED_CMD_IBPB, %eax
	xor	%edx, %edx
	wrmsr
.Lno_ibpb:
	/* IBRS without its enhanced form counts from the last write. */
	ALTERNATIVE "jmp .Lno_ibrs", "", X86_FEATURE_KERNEL_IBRS
	mov	$MSR_IA32_SPEC_CTRL, %ecx
	mov	PER_CPU_VAR(x86_spec_ctrl_current), %eax
	xor	%edx, %edx
	wrmsr
.Lno_ibrs:
	mov	%ebx, %eax

	/* Nor its register values by speculation past this point. */
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
SYM_FUNC_END(rvmm_vmx_enter)
