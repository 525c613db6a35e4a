/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Entry of the tiny guest by its PVH note ("x86/HVM direct boot ABI": 32-bit mode,
 * paging off, EBX = start info), the way to long mode with 4 GiB mapped one to one,
 * and the handlers of interrupts.
 */
#include "tiny.h"

#define PRESENT_WRITABLE 3
#define LARGE 0x80
#define MSR_EFER 0xc0000080
#define EFER_LME (1 << 8)
#define CR0_PG (1 << 31)
#define CR4_PAE (1 << 5)
#define CODE64 0x08
#define DATA 0x10

.section .note.pvh, "a", @note
	.balign 4
	.long 4, 4, 18		/* sizes of name and value; XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.long start

.section .text.start, "ax"
.code32
.globl start
start:
	cld
	mov	$stack_top, %esp
	mov	$bss_start, %edi
	mov	$bss_end, %ecx
	sub	%edi, %ecx
	shr	$2, %ecx
	xor	%eax, %eax
	rep stosl

	movl	$(pdpt + PRESENT_WRITABLE), pml4
	mov	$(directories + PRESENT_WRITABLE), %eax
	mov	$pdpt, %edi
	mov	$4, %ecx
1:	mov	%eax, (%edi)
	add	$0x1000, %eax
	add	$8, %edi
	loop	1b
	mov	$(LARGE | PRESENT_WRITABLE), %eax
	mov	$directories, %edi
	mov	$2048, %ecx
2:	mov	%eax, (%edi)
	add	$0x200000, %eax
	add	$8, %edi
	loop	2b

	mov	%cr4, %eax
	or	$CR4_PAE, %eax
	mov	%eax, %cr4
	mov	$pml4, %eax
	mov	%eax, %cr3
	mov	$MSR_EFER, %ecx
	rdmsr
	or	$EFER_LME, %eax
	wrmsr
	mov	%cr0, %eax
	or	$CR0_PG, %eax
	mov	%eax, %cr0
	lgdt	gdt_pointer
	ljmp	$CODE64, $long_mode

.code64
long_mode:
	mov	$DATA, %eax
	mov	%eax, %ds
	mov	%eax, %es
	mov	%eax, %ss
	mov	%ebx, %edi
	call	tiny_main
3:	hlt
	jmp	3b

/* Ends an interrupt: in memory where the hypervisor says so, else by the x2APIC. */
.macro end_of_interrupt
	btrl	$0, pv_eoi
	jc	9f
	mov	$X2APIC_EOI, %ecx
	xor	%eax, %eax
	xor	%edx, %edx
	wrmsr
9:
.endm

.macro handler name, counter
.globl \name
\name:
	push	%rax
	push	%rcx
	push	%rdx
	incq	\counter
	end_of_interrupt
	pop	%rdx
	pop	%rcx
	pop	%rax
	iretq
.endm

	handler	on_virtio, virtio_interrupts
	handler	on_timer, timer_interrupts

/* An exception, with or without an error code: what lies on the stack tells. */
.globl on_exception
on_exception:
	mov	%rsp, %rdi
	call	tiny_exception

.section .data
	.balign 8
gdt:	.quad 0
	.quad 0x00af9b000000ffff
	.quad 0x00cf93000000ffff
gdt_end:
gdt_pointer:
	.word gdt_end - gdt - 1
	.long gdt

.section .bss
	.balign 4096
pml4:	.skip 4096
pdpt:	.skip 4096
directories:
	.skip 4 * 4096
	.skip 16384
stack_top:

.section .note.GNU-stack, "", @progbits
