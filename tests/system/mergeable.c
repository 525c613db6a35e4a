// SPDX-License-Identifier: GPL-2.0
/*
 * mergeable COMMAND [ARG…]: runs a command whose anonymous memory KSM may merge.
 */
#include <stdio.h>
#include <sys/prctl.h>
#include <unistd.h>

#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#endif

int main(int argc, char **argv)
{
	if (argc < 2)
		return 2;
	if (prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0))
		perror("PR_SET_MEMORY_MERGE");
	execvp(argv[1], argv + 1);
	perror(argv[1]);
	return 127;
}
