// SPDX-License-Identifier: GPL-2.0
/*
 * How late a timer of the host is: a high-resolution timer in hard interrupt context on
 * the CPU that loads this, every PERIOD nanoseconds, which are instructions under
 * icount. The parameter "worst" has the worst lateness since something was written to
 * it; so a section with interrupts off shows, less what is left of a period when it
 * begins. The host's tick, which is such a section itself, does not count unless
 * something else comes to it. For one processor.
 */
#include <linux/hrtimer.h>
#include <linux/jiffies.h>
#include <linux/module.h>

#define PERIOD 5003 /* not a divisor of the tick's */
#define TICK 16000 /* what the tick takes at most */

static struct hrtimer timer;
static unsigned long worst;

static int reset_worst(const char *value, const struct kernel_param *param)
{
	WRITE_ONCE(worst, 0);
	return 0;
}

static const struct kernel_param_ops worst_ops = { .set = reset_worst, .get = param_get_ulong };
module_param_cb(worst, &worst_ops, &worst, 0600);
MODULE_PARM_DESC(worst, "the worst lateness, in nanoseconds; a write resets it");

static enum hrtimer_restart on_timer(struct hrtimer *t)
{
	static unsigned long last_jiffies;
	s64 late = ktime_to_ns(ktime_sub(ktime_get(), hrtimer_get_expires(t)));
	bool is_tick = jiffies != last_jiffies && late < TICK;

	last_jiffies = jiffies;
	if (!is_tick)
		WRITE_ONCE(worst, max(READ_ONCE(worst), (unsigned long)max(late, 0)));
	hrtimer_forward_now(t, PERIOD);
	return HRTIMER_RESTART;
}

static int __init late_init(void)
{
	hrtimer_setup(&timer, on_timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL_PINNED_HARD);
	hrtimer_start(&timer, PERIOD, HRTIMER_MODE_REL_PINNED_HARD);
	return 0;
}

static void __exit late_exit(void)
{
	hrtimer_cancel(&timer);
}

module_init(late_init);
module_exit(late_exit);
MODULE_DESCRIPTION("Tells how long the host has its interrupts off, for rvmm's scoreboard");
MODULE_LICENSE("GPL");
