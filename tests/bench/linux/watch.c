// SPDX-License-Identifier: GPL-2.0
/*
 * Watches a hypervisor from outside while a guest runs: the number of exits, and
 * what the VMM's own memory is.
 *
 *   watch kvm|rvmm FLAG MARKS COMM OUT
 *
 * It runs as long as the file FLAG exists. The guest writes a letter to the first
 * byte of its disk, the file MARKS, before and after what it measures, and then
 * sleeps; "at LETTER NAME COUNT", by kind, goes to OUT for each. 'r' also brings "rss KIB": what
 * is resident of the process COMM without the guest's memory, which is its mappings
 * of 256 MiB and more. Last come "exits NAME COUNT", by kind, as last seen. A guest
 * that has had no exit but for the host's interrupts for half a second hangs: see
 * docs/bench/README.md. "hung" goes to OUT, and COMM is killed.
 */
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KINDS 24
#define GUEST_KIB (256 << 10)
#define POLL_US 20000
#define HUNG_POLLS 25

static struct {
	char name[32];
	unsigned long long count;
} now[KINDS], last[KINDS];
static int kinds;

static void add(const char *name, unsigned long long count)
{
	int i;

	for (i = 0; i < kinds && strcmp(now[i].name, name); i++)
		;
	if (i == KINDS)
		return;
	if (i == kinds)
		snprintf(now[kinds++].name, sizeof(now[i].name), "%s", name);
	now[i].count += count;
}

static void sample_kvm(void)
{
	static const char *const files[] = { "exits", "io_exits", "mmio_exits", "halt_exits", "irq_exits",
					     "irq_injections", "pf_taken", "insn_emulation" };
	char path[96];

	for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
		unsigned long long count = 0;
		FILE *f;

		snprintf(path, sizeof(path), "/sys/kernel/debug/kvm/%s", files[i]);
		f = fopen(path, "r");
		if (f && fscanf(f, "%llu", &count) == 1)
			add(files[i], count);
		if (f)
			fclose(f);
	}
}

static void sample_rvmm(void)
{
	FILE *f = fopen("/sys/kernel/debug/rvmm/counters", "r");
	unsigned long long count;
	char line[2048], name[32];

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%*s %31s %llu", name, &count) == 2 && !strstr(name, "_cycles"))
			add(name, count);
	if (f)
		fclose(f);
}

/* Reads the counters, and returns the exits; the last counters that are not of a guest that is gone are kept. */
static unsigned long long sample(int is_kvm)
{
	kinds = 0;
	memset(now, 0, sizeof(now));
	if (is_kvm)
		sample_kvm();
	else
		sample_rvmm();
	for (int i = 0; i < kinds; i++)
		if (!strcmp(now[i].name, "exits") && now[i].count >= last[i].count) {
			memcpy(last, now, sizeof(now));
			return now[i].count;
		}
	return 0;
}

static long own_kib(const char *pid)
{
	long size = 0, rss, sum = 0;
	char line[512];
	FILE *f;

	snprintf(line, sizeof(line), "/proc/%s/smaps", pid);
	f = fopen(line, "r");
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "Size: %ld kB", &size) == 1)
			continue;
		if (sscanf(line, "Rss: %ld kB", &rss) == 1 && size < GUEST_KIB)
			sum += rss;
	}
	if (f)
		fclose(f);
	return sum;
}

static void each_process(const char *comm, FILE *out, int is_to_die)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;

	while (proc && (entry = readdir(proc))) {
		char path[300], name[64] = "";
		FILE *f;

		snprintf(path, sizeof(path), "/proc/%s/comm", entry->d_name);
		f = entry->d_name[0] >= '1' && entry->d_name[0] <= '9' ? fopen(path, "r") : NULL;
		if (f && fscanf(f, "%63s", name) == 1 && !strcmp(name, comm)) {
			if (is_to_die)
				kill(atoi(entry->d_name), SIGKILL);
			else
				fprintf(out, "rss %ld\n", own_kib(entry->d_name));
		}
		if (f)
			fclose(f);
	}
	if (proc)
		closedir(proc);
}

static unsigned long long count_of(const char *name)
{
	for (int i = 0; i < kinds; i++)
		if (!strcmp(now[i].name, name))
			return now[i].count;
	return 0;
}

/* Whether the guest has done nothing by itself for long. */
static int hangs(void)
{
	static unsigned long long before;
	static int same;
	unsigned long long own = count_of("exits") - count_of("irq_exits");

	same = own == before && count_of("irq_injections") > 100 ? same + 1 : 0;
	before = own;
	return same == HUNG_POLLS;
}

int main(int argc, char **argv)
{
	char mark = 0, seen = 0;
	int fd, is_kvm;
	FILE *out;

	if (argc < 6)
		return 2;
	is_kvm = !strcmp(argv[1], "kvm");
	fd = open(argv[3], O_RDONLY);
	out = fopen(argv[5], "w");
	if (!out)
		return 1;
	while (!access(argv[2], F_OK)) {
		usleep(POLL_US);
		sample(is_kvm);
		if (fd >= 0 && pread(fd, &mark, 1, 0) == 1 && mark != seen) {
			seen = mark;
			for (int i = 0; i < kinds; i++)
				fprintf(out, "at %c %s %llu\n", mark ? mark : '-', now[i].name, now[i].count);
			if (mark == 'r')
				each_process(argv[4], out, 0);
		}
		if (hangs()) {
			fprintf(out, "hung\n");
			each_process(argv[4], out, 1);
		}
	}
	for (int i = 0; i < KINDS && last[i].name[0]; i++)
		fprintf(out, "exits %s %llu\n", last[i].name, last[i].count);
	return 0;
}
