/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The guests of the scoreboard: one entry for each row, in long mode, copied to
 * CODE. RDI holds COMM.
 *
 * A loop row counts a whole round and the client takes the empty loop off; a sum
 * row adds up in R15 what lies between two RDTSC. Round numbers are in R13,
 * repetitions in R12; a body may change RAX to RDX, RSI and R8 to R11.
 */
#include "guest.h"

.section .rodata
.code64
.globl guest_start, guest_end
.balign 16
guest_start:

.macro now64
	rdtsc
	shl $32, %rdx
	or %rdx, %rax
.endm

.macro entry name
.globl \name
.balign 16
\name:
.endm

.macro begin
	xor %r13d, %r13d
1:	mov C_N(%rdi), %r12
	xor %r15d, %r15d
	now64
	mov %rax, %r14
2:
.endm

.macro next
	inc %r13
	cmp C_ROUNDS(%rdi), %r13
	jb 1b
	jmp finish
.endm

.macro end_loop
	dec %r12
	jnz 2b
	now64
	sub %r14, %rax
	mov %rax, C_SAMPLES(%rdi,%r13,8)
	next
.endm

.macro end_sum
	dec %r12
	jnz 2b
	mov %r15, C_SAMPLES(%rdi,%r13,8)
	next
.endm

/* An access in a loop. */
.macro loop_row name, insn:vararg
entry \name
	begin
	\insn
	end_loop
.endm

.macro wrmsr32 index, value
	mov $\index, %ecx
	mov $\value, %eax
	xor %edx, %edx
	wrmsr
.endm

entry g_empty
	begin
	end_loop

finish:
	mov C_N(%rdi), %r12
	now64
	mov %rax, %r14
7:	dec %r12
	jnz 7b
	now64
	sub %r14, %rax
	mov %rax, C_EMPTY(%rdi)
8:	out %al, $PORT_DONE
	jmp 8b

entry g_cpuid
	begin
	mov C_LEAF(%rdi), %eax
	xor %ecx, %ecx
	cpuid
	end_loop

entry g_rdmsr
	mov $0x1b, %ecx		/* APIC_BASE */
	begin
	rdmsr
	end_loop

entry g_wrmsr
	mov $0x250, %ecx	/* MTRR_FIX64K_00000 */
	mov $0x06060606, %eax
	mov %eax, %edx
	wrmsr
	begin
	mov $0x06060606, %eax
	mov %eax, %edx
	wrmsr
	end_loop

entry g_hypercall
	begin
	mov $1, %eax		/* KVM_HC_VAPIC_POLL_IRQ: does nothing */
	vmmcall
	end_loop

loop_row g_pio_read, in $0x61, %al
loop_row g_pio_write, out %al, $0x80
entry g_pit_write
	begin
	xor %eax, %eax
	out %al, $0x43		/* latch channel 0 */
	end_loop
entry g_pit_read
	begin
	in $0x40, %al
	end_loop
entry g_port61_write
	in $0x61, %al
	mov %eax, %ebx
	begin
	mov %ebx, %eax
	out %al, $0x61
	end_loop

entry g_lapic_read
	mov $0xfee00020, %ebx
	begin
	mov (%rbx), %eax
	end_loop
entry g_lapic_write
	mov $0xfee00080, %ebx
	xor %ecx, %ecx
	begin
	mov %ecx, (%rbx)
	end_loop
entry g_ioapic_read
	mov $0xfec00000, %ebx
	movl $1, (%rbx)
	begin
	mov 0x10(%rbx), %eax
	end_loop
entry g_ioapic_write
	mov $0xfec00000, %ebx
	mov $1, %ecx
	begin
	mov %ecx, (%rbx)
	end_loop

entry g_user_in
	mov $PORT_USER, %edx
	begin
	mov $PORT_USER, %edx
	in %dx, %al
	end_loop
entry g_user_out
	begin
	mov $PORT_USER, %edx
	out %al, %dx
	end_loop
entry g_user_read
	mov $HOLE, %ebx
	begin
	mov (%rbx), %eax
	end_loop
entry g_user_write
	mov $HOLE, %ebx
	begin
	mov %eax, (%rbx)
	end_loop
entry g_user_outsb
	cld
	begin
	mov $PORT_USER, %edx
	mov $BUFFER, %esi
	mov $64, %ecx
	rep outsb
	end_loop

entry g_kick_port
	begin
	mov $PORT_KICK, %edx
	xor %eax, %eax
	out %ax, %dx
	end_loop
entry g_kick_mmio
	mov $KICK_MMIO, %ebx
	xor %eax, %eax
	begin
	mov %ax, (%rbx)
	end_loop

entry g_touch
	mov $REGION, %r11d
	mov C_STRIDE(%rdi), %r10
	begin
	movb $1, (%r11)
	add %r10, %r11
	end_loop

/* The local APIC: xAPIC is on after reset; SVR switches it on for interrupts. */
x2apic_on:
	mov $0x1b, %ecx
	rdmsr
	or $0xc00, %eax
	wrmsr
	wrmsr32 0x80f, 0x1ff
	ret
xapic_on:
	mov $0xfee000f0, %eax
	movl $0x1ff, (%rax)
	ret

.macro eoi_x2apic
	mov $0x80b, %ecx
	xor %eax, %eax
	xor %edx, %edx
	wrmsr
.endm

/* From before the WRMSR of SELF IPI to the first instruction of the handler. */
entry g_self_ipi
	call x2apic_on
	sti
	begin
	xor %r9d, %r9d
	rdtsc
	mov %eax, %r8d
	wrmsr32 0x83f, VECTOR
9:	test %r9d, %r9d
	jz 9b
	end_sum
entry h_since_r8
	rdtsc
	sub %r8d, %eax
	add %rax, %r15
	eoi_x2apic
	mov $1, %r9d
	iretq

/* The WRMSR of EOI, in the handler of a self IPI. */
entry h_eoi_x2apic
	rdtsc
	mov %eax, %r8d
	eoi_x2apic
	rdtsc
	sub %r8d, %eax
	add %rax, %r15
	mov $1, %r9d
	iretq

/* The same in xAPIC mode. */
entry g_self_ipi_xapic
	call xapic_on
	mov $0xfee00300, %ebx
	sti
	begin
	xor %r9d, %r9d
	rdtsc
	mov %eax, %r8d
	movl $(0x44000 | VECTOR), (%rbx)
9:	test %r9d, %r9d
	jz 9b
	end_sum
entry h_eoi_xapic
	mov $0xfee000b0, %r10d
	rdtsc
	mov %eax, %r8d
	movl $0, (%r10)
	rdtsc
	sub %r8d, %eax
	add %rax, %r15
	mov $1, %r9d
	iretq
entry h_since_r8_xapic
	rdtsc
	sub %r8d, %eax
	add %rax, %r15
	mov $0xfee000b0, %r10d
	movl $0, (%r10)
	mov $1, %r9d
	iretq

deadline_on:
	call x2apic_on
	wrmsr32 0x832, 0x40000 | VECTOR
	ret

/* Arms a deadline that never comes. */
entry g_timer_arm
	call deadline_on
	begin
	now64
	add $0x40000000, %rax
	mov %rax, %rdx
	shr $32, %rdx
	mov $0x6e0, %ecx
	wrmsr
	end_loop

/* A deadline that has passed: from before the WRMSR to the handler. */
entry g_timer_now
	call deadline_on
	sti
	begin
	xor %r9d, %r9d
	mov $0x6e0, %ecx
	rdtsc
	mov %eax, %r8d
	wrmsr
9:	test %r9d, %r9d
	jz 9b
	end_sum

/* A deadline 20,000 ticks ahead, met running: R8 is the deadline. */
entry g_timer_spin
	call deadline_on
	sti
	begin
	xor %r9d, %r9d
	mov $0x6e0, %ecx
	now64
	add $20000, %rax
	mov %eax, %r8d
	mov %rax, %rdx
	shr $32, %rdx
	wrmsr
9:	test %r9d, %r9d
	jz 9b
	end_sum

/* The same, met in HLT. */
entry g_timer_hlt
	call deadline_on
	begin
	cli
	xor %r9d, %r9d
	mov $0x6e0, %ecx
	now64
	add $20000, %rax
	mov %eax, %r8d
	mov %rax, %rdx
	shr $32, %rdx
	wrmsr
9:	sti
	hlt
	cli
	test %r9d, %r9d
	jz 9b
	end_sum

/* Two vCPUs in HLT wake each other. */
entry g_ping
	call x2apic_on
	begin
	cli
	movq $0, C_FLAG(%rdi)
	mov $0x830, %ecx
	mov $(0x4000 | VECTOR), %eax
	mov $1, %edx
	wrmsr
9:	sti
	hlt
	cli
	cmpq $0, C_FLAG(%rdi)
	je 9b
	end_loop

/* The handler of both: vCPU 1 has R9 = 1 and answers. */
entry h_ping
	eoi_x2apic
	test %r9d, %r9d
	jnz 9f
	movq $1, C_FLAG(%rdi)
	iretq
9:	mov $0x830, %ecx
	mov $(0x4000 | VECTOR), %eax
	xor %edx, %edx
	wrmsr
	iretq

/* vCPU 1, and vCPU 0 of the irqfd row: sleeps for ever. */
entry g_pong
	call x2apic_on
	mov $1, %r9d
	movq $1, C_READY(%rdi)
9:	sti
	hlt
	jmp 9b
entry g_sleep
	call x2apic_on
	movq $1, C_READY(%rdi)
9:	sti
	hlt
	jmp 9b
entry h_count
	eoi_x2apic
	incq C_FLAG(%rdi)
	iretq

/* Says at once that it ran. */
entry g_done
	out %al, $PORT_DONE
	hlt

/* Exceptions: 32 stubs of 16 bytes, then what they share. */
.globl traps
.balign 16
traps:
.set vector, 0
.rept 32
	.balign 16
	mov $vector, %al
	jmp trap
	.set vector, vector + 1
.endr
.balign 16
trap:
	out %al, $PORT_TRAP
	hlt
guest_end:
.section .note.GNU-stack, "", @progbits
