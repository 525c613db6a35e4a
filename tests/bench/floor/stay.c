// SPDX-License-Identifier: GPL-2.0
/*
 * Counts what passes between two instructions of a function of rvmm: its call of the
 * world switch and the instruction after it. Unloading prints "guest-mode NUMBER TOTAL
 * SHORTEST". By kprobes of its own, for the trace events take no function that ftrace
 * cannot trace. For one processor; the exit's probe may follow on another.
 */
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/timex.h>
#include <asm/tsc.h>

static char *function = "";
module_param(function, charp, 0400);
MODULE_PARM_DESC(function, "symbol of the function that calls the world switch");
static unsigned int after;
module_param(after, uint, 0400);
MODULE_PARM_DESC(after, "offset of the instruction after the call, which has 5 bytes");

static u64 entered, number, total, shortest = U64_MAX;

static int on_entry(struct kprobe *probe, struct pt_regs *regs)
{
	entered = rdtsc();
	return 0;
}

static int on_exit(struct kprobe *probe, struct pt_regs *regs)
{
	u64 stay = rdtsc() - entered;

	number++;
	total += stay;
	shortest = min(shortest, stay);
	return 0;
}

static struct kprobe entry = { .pre_handler = on_entry };
static struct kprobe leave = { .pre_handler = on_exit };

static int __init stay_init(void)
{
	int bad;

	entry.symbol_name = leave.symbol_name = function;
	entry.offset = after - 5;
	leave.offset = after;
	bad = register_kprobe(&entry);
	if (bad)
		return bad;
	bad = register_kprobe(&leave);
	if (bad)
		unregister_kprobe(&entry);
	return bad;
}

static void __exit stay_exit(void)
{
	unregister_kprobe(&entry);
	unregister_kprobe(&leave);
	pr_info("guest-mode %llu %llu %llu\n", number, total, shortest);
}

module_init(stay_init);
module_exit(stay_exit);
MODULE_DESCRIPTION("Counts the stays in a guest of rvmm");
MODULE_LICENSE("GPL");
