/* SPDX-License-Identifier: GPL-2.0 */
/* The rows of the scoreboard. */
#ifndef ROWS_H
#define ROWS_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

struct row {
	const char *name;
	void (*run)(const struct row *row);
	const char *entry;	/* of the guest */
	const char *handler;	/* of the interrupt, or none */
	bool is_sum;		/* the guest's samples need no empty loop taken off */
	unsigned int n;		/* repetitions in a round; 0: 16 */
	unsigned int rounds;	/* 0: 24 */
	unsigned int per;	/* operations in a repetition; 0: 1 */
	unsigned int vms;	/* VMs open beside this one */
	unsigned int slots;	/* memory slots in all */
	uint64_t arg;
};

extern const struct row rows[];

/* Rounds that only warm up: their samples are dropped. */
#define WARM_UP 2

/* Whether the row is to go on for ever, to be profiled. */
bool is_forever(void);
/* One more sample, in the row's unit for one operation. */
void sample(double value);
/* Prints the samples given so far. */
void print_samples(const struct row *row, const char *unit);

/* Rows that the client itself measures (rows_host.c). */
void row_create(const struct row *row);
void row_destroy(const struct row *row);
void row_memory(const struct row *row);
void row_work(const struct row *row);
void row_ping(const struct row *row);
void row_ioeventfd(const struct row *row);
void row_irqfd(const struct row *row);
void row_irqfd_hlt(const struct row *row);
void row_touch(const struct row *row);
void row_late(const struct row *row);

/* Makes VMs with a vCPU that has run, which stay open until the process ends. */
void open_vms(unsigned int number);

/* Runs the row's guest in `vm` and samples it; used by those that prepare the VM. */
struct vm;
void measure(const struct row *row, struct vm *vm);

#endif
