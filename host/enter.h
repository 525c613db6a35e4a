/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the world switches of SVM and VMX have in common: the general registers.
 *
 * A guest's are an array of 16 u64, numbered as instructions encode registers.
 */

	.set gpr_rax, 0
	.set gpr_rcx, 1
	.set gpr_rdx, 2
	.set gpr_rbx, 3
	.set gpr_rbp, 5
	.set gpr_rsi, 6
	.set gpr_rdi, 7
	.set gpr_r8, 8
	.set gpr_r9, 9
	.set gpr_r10, 10
	.set gpr_r11, 11
	.set gpr_r12, 12
	.set gpr_r13, 13
	.set gpr_r14, 14
	.set gpr_r15, 15

/* load_gprs BASE, REGISTER...: loads them from the array that BASE points to. */
.macro load_gprs base:req, regs:vararg
	.irp	reg, \regs
	mov	gpr_\reg * 8(%\base), %\reg
	.endr
.endm

/* save_gprs BASE, REGISTER...: stores them there. */
.macro save_gprs base:req, regs:vararg
	.irp	reg, \regs
	mov	%\reg, gpr_\reg * 8(%\base)
	.endr
.endm

/* What a C function must leave as it was. */
.macro push_callee_saved
	.irp	reg, rbp, rbx, r12, r13, r14, r15
	push	%\reg
	.endr
.endm

.macro pop_callee_saved
	.irp	reg, r15, r14, r13, r12, rbx, rbp
	pop	%\reg
	.endr
.endm

/* Clears what a C function may change, but for its result: no value of the guest's is left to speculate on. */
.macro clear_scratch
	.irp	reg, ecx, edx, esi, edi, r8d, r9d, r10d, r11d
	xor	%\reg, %\reg
	.endr
.endm

	/* What VERW looks at: any selector that may be written. */
	.pushsection .rodata, "a"
.Lselector:
	.word	__KERNEL_DS
	.popsection

/*
 * Where the host wants it: nothing that it left in the processor's buffers can be sampled by the guest. Changes ZF
 * alone. No guest has memory of a device mapped, so X86_FEATURE_CLEAR_CPU_BUF_VM_MMIO asks for nothing.
 */
.macro clear_cpu_buffers
	ALTERNATIVE "", "verw .Lselector(%rip)", X86_FEATURE_CLEAR_CPU_BUF_VM
.endm

/*
 * Where the host wants it: its indirect branches do not follow what the guest trained. Changes EAX, ECX, EDX.
 * The barrier of some processors leaves the return stack as it is.
 */
.macro ibpb_on_exit
	ALTERNATIVE "jmp .Lno_ibpb\@", "", X86_FEATURE_IBPB_ON_VMEXIT
	mov	$MSR_IA32_PRED_CMD, %ecx
	mov	$PRED_CMD_IBPB, %eax
	xor	%edx, %edx
.Libpb\@:
	wrmsr
	FILL_RETURN_BUFFER %rax, RSB_CLEAR_LOOPS, X86_BUG_IBPB_NO_RET
.Lno_ibpb\@:
	_ASM_EXTABLE_TYPE(.Libpb\@, .Lno_ibpb\@, EX_TYPE_WRMSR)
.endm
