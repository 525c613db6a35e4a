// SPDX-License-Identifier: GPL-2.0
/*
 * The client of the scoreboard: runs the rows on one node and prints the samples.
 *
 * Usage: rvmm-bench NODE [ROW…]
 *        rvmm-bench NODE --company N   opens N VMs, says "open" and sleeps until it is ended
 * Output, a line for each row: "row NAME UNIT SAMPLE…" or "skip NAME REASON".
 * Each row runs in a process of its own, so one that fails or hangs costs itself.
 * With RVMM_BENCH_FOREVER in the environment, a row's first round never ends: for
 * scripts/bench --profile.
 */
#include "rows.h"
#include "vm.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define ROW_SECONDS 20 /* of the emulated host's clock */

static const struct row *current;

void skip(const char *format, ...)
{
	va_list args;

	printf("skip %s ", current ? current->name : "-");
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf("\n");
	fflush(stdout);
	_exit(0);
}


static void run_row(const struct row *row, const char *node)
{
	int status;
	pid_t child;

	fflush(stdout);
	child = fork();
	if (!child) {
		current = row;
		if (!is_forever())
			alarm(ROW_SECONDS);
		node_open(node);
		row->run(row);
		fflush(stdout);
		_exit(0);
	}
	waitpid(child, &status, 0);
	if (WIFSIGNALED(status))
		printf("skip %s %s\n", row->name,
		       WTERMSIG(status) == SIGALRM ? "did not end in time" : strsignal(WTERMSIG(status)));
	fflush(stdout);
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		fprintf(stderr, "usage: rvmm-bench NODE [ROW… | --company N]\n");
		return 2;
	}
	if (argc == 4 && !strcmp(argv[2], "--company")) {
		node_open(argv[1]);
		open_vms((unsigned int)atoi(argv[3]));
		printf("open\n");
		fflush(stdout);
		pause();
		return 0;
	}
	for (const struct row *row = rows; row->name; row++) {
		bool wanted = argc == 2;

		for (int i = 2; i < argc; i++)
			wanted |= !strcmp(argv[i], row->name);
		if (wanted)
			run_row(row, argv[1]);
	}
	return 0;
}
