// SPDX-License-Identifier: GPL-2.0
//
// A debugger of few words: says to the stub at a UNIX socket what its standard input has, a packet a line, and
// prints each answer on a line. "!" stops the guest; "?" and "c" and the like wait for as long as it takes.
// GDB manual, "Remote Serial Protocol". Usage: rsp SOCKET SECONDS

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int stub;

static int next(void)
{
	unsigned char c;

	if (read(stub, &c, 1) != 1) {
		fprintf(stderr, "rsp: the stub is gone\n");
		exit(1);
	}
	return c;
}

static void say(const char *text, size_t len)
{
	if (write(stub, text, len) != (ssize_t)len) {
		perror("rsp: write");
		exit(1);
	}
}

/* Sends a packet, with its sum. */
static void send_packet(const char *body)
{
	char packet[256];
	unsigned sum = 0;
	int len;

	for (const char *c = body; *c; c++)
		sum += (unsigned char)*c;
	len = snprintf(packet, sizeof(packet), "$%s#%02x", body, sum & 0xff);
	say(packet, len);
}

/* Prints the next packet that comes, and says that it has come. */
static void print_packet(void)
{
	int c;

	while (next() != '$')
		;
	while ((c = next()) != '#')
		putchar(c);
	next();
	next();
	say("+", 1);
	putchar('\n');
	fflush(stdout);
}

int main(int argc, char **argv)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	char line[200];

	if (argc != 3) {
		fprintf(stderr, "usage: rsp SOCKET SECONDS\n");
		return 2;
	}
	alarm(atoi(argv[2]));
	strncpy(at.sun_path, argv[1], sizeof(at.sun_path) - 1);
	stub = socket(AF_UNIX, SOCK_STREAM, 0);
	if (stub < 0 || connect(stub, (struct sockaddr *)&at, sizeof(at))) {
		perror("rsp: connect");
		return 1;
	}
	while (fgets(line, sizeof(line), stdin)) {
		line[strcspn(line, "\n")] = 0;
		if (!strcmp(line, "!"))
			say("\003", 1);
		else
			send_packet(line);
		print_packet();
	}
	return 0;
}
