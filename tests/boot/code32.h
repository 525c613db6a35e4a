/* SPDX-License-Identifier: GPL-2.0 */
/* Comes before every file: what is made is 32-bit code, also where the file that it goes into is a 64-bit one. */
#ifdef __ASSEMBLER__
.code32
#else
__asm__(".code32");
#endif
