// SPDX-License-Identifier: GPL-2.0
/*
 * First process of the Linux guests of the scoreboard. "bench=" of the kernel's
 * command line says, comma separated, what it measures before it powers the machine off:
 *   boot     nothing
 *   console  16 KiB to the console's terminal, until they have left it
 *   blk      4 KiB reads and writes of /dev/vda at depth 1 and 32, direct
 *   net      packets and bulk data through eth0
 *   forever1, forever32, forever    the reads at that depth, or sending packets, for ever
 * A line "guest ROW UNIT VALUE" for each figure goes to the console. The time
 * stamp counter counts the instructions of guest and host together.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "guest.h"

#define BLOCK 4096
#define BLOCKS 8192
#define REQUESTS 1024
#define FOR_EVER (1 << 30)
#define DEEPEST 32
#define CONSOLE_KIB 16

uint64_t tsc(void)
{
	uint32_t low, high;

	__asm__ volatile("lfence; rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

void figure(const char *row, const char *unit, double value)
{
	printf("guest %s %s %.3f\n", row, unit, value);
}

void run(char *const command[])
{
	pid_t child = fork();

	if (!child) {
		execv(command[0], command);
		_exit(127);
	}
	waitpid(child, NULL, 0);
}

uint64_t interrupts(void)
{
	FILE *f = fopen("/proc/interrupts", "r");
	char line[512];
	uint64_t sum = 0;

	while (f && fgets(line, sizeof(line), f)) {
		char *colon = strchr(line, ':');

		if (colon && strstr(line, "virtio"))
			sum += strtoull(colon + 1, NULL, 10);
	}
	if (f)
		fclose(f);
	return sum;
}

static int disk = -1;

void mark(char letter)
{
	static char block[BLOCK] __attribute__((aligned(BLOCK)));

	block[0] = letter;
	if (disk >= 0 && pwrite(disk, block, BLOCK, 0) != BLOCK)
		perror("mark");
	usleep(120000);
}

static long submit(aio_context_t context, struct iocb *iocb)
{
	return syscall(SYS_io_submit, context, 1, &iocb);
}

static void blk_row(int fd, int depth, int is_write, int requests)
{
	static struct iocb slots[DEEPEST];
	static struct io_event done[DEEPEST];
	aio_context_t context = 0;
	uint64_t began = 0, before = 0, seed = 1;
	unsigned char *memory;
	int sent = 0, ended = 0;
	const int warm_up = 128;
	const char letter = (char)("hijk"[is_write * 2 + (depth > 1)]);
	char row[64];

	if (posix_memalign((void **)&memory, BLOCK, BLOCK * DEEPEST) ||
	    syscall(SYS_io_setup, DEEPEST, &context)) {
		perror("blk");
		return;
	}
	memset(memory, 0x5a, BLOCK * DEEPEST);
	mark(letter);
	while (ended < requests + warm_up) {
		int n;

		while (sent < requests + warm_up && sent - ended < depth) {
			struct iocb *iocb = &slots[sent % depth];

			seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
			*iocb = (struct iocb){
				.aio_lio_opcode = is_write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD,
				.aio_fildes = fd,
				.aio_buf = (uintptr_t)memory + (uint64_t)(sent % depth) * BLOCK,
				.aio_nbytes = BLOCK,
				.aio_offset = (int64_t)(((seed >> 33) % (BLOCKS - 1) + 1) * BLOCK),
			};
			if (submit(context, iocb) != 1) {
				perror("io_submit");
				return;
			}
			sent++;
		}
		n = (int)syscall(SYS_io_getevents, context, 1, depth, done, NULL);
		for (int i = 0; i < n; i++)
			if (done[i].res != BLOCK)
				printf("a request ended with %lld\n", (long long)done[i].res);
		if (n < 1)
			return;
		/* All of a batch have ended before the next is sent, so a slot is free again. */
		ended += n;
		if (began == 0 && ended >= warm_up) {
			began = tsc();
			before = interrupts();
			began = tsc();
			sent = ended = warm_up + (ended - warm_up);
		}
	}
	began = tsc() - began;
	before = interrupts() - before;
	mark((char)(letter - 'a' + 'A'));
	snprintf(row, sizeof(row), "linux-blk-4k-%s-depth-%d", is_write ? "write" : "read", depth);
	figure(row, "instructions", (double)began / requests);
	snprintf(row, sizeof(row), "linux-blk-4k-%s-depth-%d-irqs", is_write ? "write" : "read", depth);
	figure(row, "interrupts", (double)before / requests);
	syscall(SYS_io_destroy, context);
}

static void open_disk(void)
{
	char *const load[] = { "/bin/modprobe", "virtio_blk", NULL };

	run(load);
	for (int i = 0; i < 100 && access("/dev/vda", F_OK); i++)
		usleep(20000);
	disk = open("/dev/vda", O_RDWR | O_DIRECT);
	if (disk < 0)
		perror("/dev/vda");
	mark('r');
}

static void blk(const char *wanted)
{
	if (strstr(wanted, "forever"))
		blk_row(disk, strstr(wanted, "forever32") ? DEEPEST : 1, 0, FOR_EVER);
	for (int is_write = 0; is_write < 2; is_write++) {
		blk_row(disk, 1, is_write, REQUESTS);
		blk_row(disk, DEEPEST, is_write, REQUESTS);
	}
}

static void console(void)
{
	char line[64];
	uint64_t began;
	int fd = open("/dev/ttyS0", O_WRONLY | O_NOCTTY);
	struct termios raw;

	memset(line, '.', sizeof(line));
	line[sizeof(line) - 1] = '\n';
	if (fd < 0 || tcgetattr(fd, &raw))
		return;
	cfmakeraw(&raw);
	tcsetattr(fd, TCSANOW, &raw);
	began = tsc();
	for (size_t i = 0; i < CONSOLE_KIB * 1024 / sizeof(line); i++)
		if (write(fd, line, sizeof(line)) < 0)
			return;
	tcdrain(fd);
	figure("console-kib", "instructions", (double)(tsc() - began) / CONSOLE_KIB);
}

int main(void)
{
	char line[1024] = "";
	const char *wanted;
	int fd;

	mount("proc", "/proc", "proc", 0, NULL);
	mount("sys", "/sys", "sysfs", 0, NULL);
	mount("dev", "/dev", "devtmpfs", 0, NULL);
	fd = open("/dev/console", O_RDWR);
	dup2(fd, 0);
	dup2(fd, 1);
	dup2(fd, 2);
	setvbuf(stdout, NULL, _IOLBF, 0);
	fd = open("/proc/cmdline", O_RDONLY);
	if (fd < 0 || read(fd, line, sizeof(line) - 1) < 0)
		perror("/proc/cmdline");
	figure("boot-to-init-tsc", "instructions", (double)tsc());
	wanted = strstr(line, "bench=");
	wanted = wanted ? wanted : "";
	if (strstr(wanted, "console"))
		console();
	if (strstr(wanted, "blk") || strstr(wanted, "net"))
		open_disk();
	if (strstr(wanted, "blk") && disk >= 0)
		blk(wanted);
	if (strstr(wanted, "net"))
		net(strstr(wanted, "forever") ? FOR_EVER : 0);
	/* Whoever looks at the exits looks now. */
	if (strstr(wanted, "boot"))
		usleep(300000);
	fflush(stdout);
	tcdrain(1);
	reboot(RB_POWER_OFF);
	return 0;
}
