/* SPDX-License-Identifier: GPL-2.0 */
/* What the guests and the client agree on: addresses in guest memory and ports. */
#ifndef GUEST_H
#define GUEST_H

#define GDT		0x2000
#define IDT		0x3000
#define TABLES		0x4000	/* PML4, PDPT, four page directories: 4 GiB, one to one */
#define COMM		0xa000
#define STACK0		0xc000
#define STACK1		0xd000
#define CODE		0x10000
#define BUFFER		0x20000
#define RAM_SIZE	0x200000

#define REGION		0x40000000	/* what the rows of first touches touch */
#define SPARE_SLOTS	0x100000000	/* memory slots that only make the list long */
#define HOLE		0xd0000000	/* MMIO that user space answers */
#define KICK_MMIO	0xd0010000	/* MMIO with an ioeventfd */

#define PORT_USER	0x3e0	/* a port that user space answers */
#define PORT_KICK	0x3e8	/* a port with an ioeventfd */
#define PORT_DONE	0xf4
#define PORT_TRAP	0xf5

#define VECTOR		0x40
#define IRQFD_GSI	5

/* Offsets in the page at COMM. */
#define C_N		0x00	/* repetitions in a round */
#define C_ROUNDS	0x08	/* rounds, the first ones for warming up */
#define C_EMPTY		0x10	/* out: a round of the empty loop */
#define C_FLAG		0x18	/* set by handlers */
#define C_READY		0x20	/* the second vCPU waits */
#define C_STRIDE	0x28	/* of first touches */
#define C_LEAF		0x30	/* of CPUID */
#define C_SAMPLES	0x100	/* out: one for each round */
#define MAX_ROUNDS	64

#endif
