/* SPDX-License-Identifier: GPL-2.0 */
/*
 * u64 floor_bare(struct floor *f, u64 count): VMRUN and the step past CPUID.
 * u64 floor_gprs(struct floor *f, u64 count): the same with all GPRs switched.
 *
 * struct floor: the VMCB's physical and virtual address, then 14 GPRs. Both
 * return the ticks that `count` exits took. To be called with interrupts off and
 * root operation on.
 */
#include <linux/linkage.h>
#include <asm/ibt.h>

#define VMCB_RIP 0x578

.macro now into:req
	rdtsc
	shl	$32, %rdx
	or	%rdx, %rax
	mov	%rax, \into
.endm

.macro gprs op:req
	.set	at, 16
	.irp	reg, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15
	.ifc	\op, load
	mov	at(%rax), %\reg
	.else
	mov	%\reg, at(%rax)
	.endif
	.set	at, at + 8
	.endr
.endm

.text
SYM_FUNC_START(floor_bare)
	ENDBR
	now	%r8
	mov	(%rdi), %rax
	mov	8(%rdi), %rcx
	clgi
1:	vmrun	%rax
	addq	$2, VMCB_RIP(%rcx)
	dec	%rsi
	jnz	1b
	stgi
	now	%rax
	sub	%r8, %rax
	RET
SYM_FUNC_END(floor_bare)

SYM_FUNC_START(floor_gprs)
	ENDBR
	push	%rbp
	push	%rbx
	push	%r12
	push	%r13
	push	%r14
	push	%r15
	now	%r8
	push	%r8
	push	%rsi
	push	%rdi
	clgi
1:	mov	(%rsp), %rax
	gprs	load
	mov	(%rax), %rax
	vmrun	%rax
	mov	(%rsp), %rax
	gprs	save
	mov	8(%rax), %rcx
	addq	$2, VMCB_RIP(%rcx)
	decq	8(%rsp)
	jnz	1b
	stgi
	add	$16, %rsp
	pop	%r8
	now	%rax
	sub	%r8, %rax
	pop	%r15
	pop	%r14
	pop	%r13
	pop	%r12
	pop	%rbx
	pop	%rbp
	RET
SYM_FUNC_END(floor_gprs)
