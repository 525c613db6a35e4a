/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Entry of the boot guests, and the header by which a loader knows the protocol: one of
 * MULTIBOOT1, MULTIBOOT2, PVH, OPENBSD. With FLAT a header of multiboot says where to
 * load the file, which is no ELF file then.
 */
#define MULTIBOOT1_MAGIC 0x1badb002
#define MULTIBOOT2_MAGIC 0xe85250d6

#if defined(MULTIBOOT1)
#ifdef FLAT
#define FLAGS 0x10003
#else
#define FLAGS 3
#endif
.section .header, "a"
	.balign 4
header:	.long MULTIBOOT1_MAGIC, FLAGS, -(MULTIBOOT1_MAGIC + FLAGS)
#ifdef FLAT
	.long header, image_start, image_end, bss_end, start
#endif
#elif defined(MULTIBOOT2)
.section .header, "a"
	.balign 8
header:	.long MULTIBOOT2_MAGIC, 0, header_end - header
	.long -(MULTIBOOT2_MAGIC + (header_end - header))
	/* Command line, loader, modules, memory, map, RSDP; and a framebuffer, which there is not. */
	.short 1, 0
	.long 8 + 4 * 7
	.long 1, 2, 3, 4, 6, 15, 8
	.balign 8
#ifdef FLAT
	.short 2, 0
	.long 24, header, image_start, image_end, bss_end
	.short 3, 0
	.long 12, start
	.balign 8
#endif
	/* Of use to whoever knows it. */
	.short 0x7777, 1
	.long 8
	.short 10, 1
	.long 24, 0x100000, 0x10000000, 0x1000, 0
	.short 0, 0
	.long 8
header_end:
#elif defined(PVH)
.section .note.pvh, "a", @note
	.balign 4
	.long 4, 4, 18		/* sizes of name and value; XEN_ELFNOTE_PHYS32_ENTRY */
	.asciz "Xen"
	.long start
#endif

.section .text.start, "ax"
.globl start
start:
	mov	%esp, %ecx
	mov	$stack_top, %esp
	pushf
	cld
	push	%ecx
	push	%ebx
	push	%eax
	call	boot_main

.section .stack, "aw", @nobits
	.balign 16
	.skip 16384
stack_top:

.section .note.GNU-stack, "", @progbits
