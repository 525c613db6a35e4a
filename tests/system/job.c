// SPDX-License-Identifier: GPL-2.0
/*
 * Runs a command as a job of a shell with a terminal of its own, as an interactive shell would, and does to it what a
 * user may do.
 *
 * Usage: job background|stopped|paste COMMAND…
 *
 * background: the job starts behind its shell, on a terminal that stops jobs which write from there (stty tostop).
 *             Ends with 0 once the terminal has shown a panic and SIGTERM has ended the job with 143.
 * stopped:    the same, but the job is stopped first, and gets SIGTERM, then SIGCONT.
 * paste:      the job is in the foreground. Once the terminal has shown a panic, nobody reads any more: 30,000
 *             characters are typed, then the escape key. Ends with 0 if the job ends with 6.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define START_SECONDS	250
#define END_SECONDS	60

static int terminal;
static char shown[1 << 20];
static size_t length;

/* Takes what the terminal shows, waiting a tenth of a second for it. */
static void look(void)
{
	struct pollfd p = { .fd = terminal, .events = POLLIN };
	ssize_t n;

	if (poll(&p, 1, 100) <= 0)
		return;
	n = read(terminal, shown + length, sizeof(shown) - 1 - length);
	if (n > 0)
		length += n;
	else
		usleep(100000);
}

/* Looks at the terminal until it has shown a text. */
static bool wait_for(const char *text)
{
	for (time_t end = time(NULL) + START_SECONDS; time(NULL) < end; look())
		if (memmem(shown, length, text, strlen(text)))
			return true;
	printf("# the terminal did not show '%s', but:\n%.*s\n", text, (int)length, shown);
	return false;
}

/* Returns the exit code of the job; -1 if it stops, or does not end. */
static int end_of(pid_t job)
{
	int status;

	for (time_t end = time(NULL) + END_SECONDS; time(NULL) < end; look()) {
		if (waitpid(job, &status, WNOHANG | WUNTRACED) != job)
			continue;
		if (WIFEXITED(status))
			return WEXITSTATUS(status);
		printf("# signal %d %s it\n", WIFSTOPPED(status) ? WSTOPSIG(status) : WTERMSIG(status),
		       WIFSTOPPED(status) ? "stopped" : "ended");
		return -1;
	}
	printf("# it did not end\n");
	kill(-job, SIGKILL);
	return -1;
}

/* Types a text as fast as the terminal takes it. Returns whether it took it all. */
static bool type(const char *text, size_t len)
{
	for (time_t end = time(NULL) + END_SECONDS; len && time(NULL) < end;) {
		ssize_t n = write(terminal, text, len);

		if (n > 0) {
			text += n;
			len -= n;
		} else if (errno == EAGAIN) {
			look();
		} else {
			err(2, "write");
		}
	}
	if (len)
		printf("# the terminal does not take %zu characters\n", len);
	return !len;
}

/* Types what is not read, and then what must not be lost. */
static bool paste(const char *last)
{
	char text[30000];

	memset(text, 'x', sizeof(text));
	return type(text, sizeof(text)) && type(last, strlen(last));
}

static int foreground(pid_t group, int tty)
{
	int ret = tcsetpgrp(tty, group);

	if (ret < 0)
		err(2, "tcsetpgrp");
	return ret;
}

int main(int argc, char **argv)
{
	bool pastes, stops;
	struct termios settings;
	pid_t job;
	int tty, code;

	if (argc < 3)
		errx(2, "usage: job background|stopped|paste COMMAND...");
	pastes = !strcmp(argv[1], "paste");
	stops = !strcmp(argv[1], "stopped");
	/* The shell leads a session whose terminal this is. */
	if (fork() > 0) {
		wait(&code);
		return WIFEXITED(code) ? WEXITSTATUS(code) : 2;
	}
	setsid();
	if (openpty(&terminal, &tty, NULL, NULL, NULL) < 0 || ioctl(tty, TIOCSCTTY, 0) < 0)
		err(2, "openpty");
	fcntl(terminal, F_SETFL, O_NONBLOCK);
	tcgetattr(tty, &settings);
	settings.c_lflag |= TOSTOP;
	tcsetattr(tty, TCSANOW, &settings);
	signal(SIGTTOU, SIG_IGN);
	job = fork();
	if (!job) {
		setpgid(0, 0);
		if (pastes)
			foreground(getpid(), tty);
		signal(SIGTTOU, SIG_DFL);
		for (int fd = 0; fd < 3; fd++)
			dup2(tty, fd);
		close(tty);
		close(terminal);
		execvp(argv[2], argv + 2);
		err(2, "%s", argv[2]);
	}
	setpgid(job, job);
	if (!wait_for("Kernel panic - not syncing"))
		return 1;
	if (pastes) {
		sleep(1);
		if (paste("\x01x"))
			return end_of(job) != 6;
		kill(-job, SIGKILL);
		return 1;
	}
	if (stops) {
		kill(job, SIGSTOP);
		if (end_of(job) != -1)
			return 1;
	}
	kill(job, SIGTERM);
	if (stops)
		kill(job, SIGCONT);
	return end_of(job) != 143;
}
