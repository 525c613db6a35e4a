/* SPDX-License-Identifier: GPL-2.0 */
/* What the parts of the guest's program share. */
#ifndef BENCH_LINUX_GUEST_H
#define BENCH_LINUX_GUEST_H

#include <stdint.h>

/* Instructions of guest and host so far. */
uint64_t tsc(void);
/* Interrupts of all virtio devices so far. */
uint64_t interrupts(void);
/* Prints a figure. */
void figure(const char *row, const char *unit, double value);
/* Tells the host's watcher by the disk's first byte that a row begins or has ended, and gives it time to look. */
void mark(char letter);
/* Runs a program to its end. */
void run(char *const command[]);
/* The network rows; sends `more` packets more than usual. */
void net(int more);

#endif
