// SPDX-License-Identifier: GPL-2.0
/* The guest's part of the network rows: eth0 is 10.9.0.2, the host (peer.c) 10.9.0.1. */
#include <arpa/inet.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "guest.h"

#define PACKETS 2048
#define ECHOES 512
#define PAYLOAD 64
#define BULK 8
#define PIECE (64 << 10)

static char buffer[PIECE];

static struct sockaddr_in address(const char *text, int port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons((unsigned short)port) };

	inet_pton(AF_INET, text, &at.sin_addr);
	return at;
}

static int link_up(void)
{
	struct sockaddr_in me = address("10.9.0.2", 0), mask = address("255.255.255.0", 0);
	struct ifreq request = { .ifr_name = "eth0" };
	int fd = socket(AF_INET, SOCK_DGRAM, 0), bad;

	memcpy(&request.ifr_addr, &me, sizeof(me));
	bad = ioctl(fd, SIOCSIFADDR, &request);
	memcpy(&request.ifr_netmask, &mask, sizeof(mask));
	bad |= ioctl(fd, SIOCSIFNETMASK, &request);
	request.ifr_flags = IFF_UP | IFF_RUNNING;
	bad |= ioctl(fd, SIOCSIFFLAGS, &request);
	close(fd);
	return bad;
}

static int connected(int type, int port)
{
	struct sockaddr_in to = address("10.9.0.1", port);
	struct timeval limit = { .tv_sec = 2 };
	int fd = socket(AF_INET, type, 0);

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)))
		perror("connect");
	return fd;
}

static int echo(int fd)
{
	return send(fd, buffer, PAYLOAD, 0) == PAYLOAD && recv(fd, buffer, PAYLOAD, 0) == PAYLOAD;
}

static void packets(int more)
{
	int fd = connected(SOCK_DGRAM, 7002), left = 0;
	uint64_t began, before;

	mark('n');
	began = tsc();
	before = interrupts();
	for (int i = 0; i < PACKETS + more; i++)
		if (send(fd, buffer, PAYLOAD, 0) != PAYLOAD)
			perror("send");
	/* What the card has not taken yet. */
	while (!ioctl(fd, SIOCOUTQ, &left) && left)
		usleep(20);
	figure("linux-net-packet", "instructions", (double)(tsc() - began) / PACKETS);
	figure("linux-net-packet-irqs", "interrupts", (double)(interrupts() - before) / PACKETS);
	mark('N');
	close(fd);
}

static void echoes(void)
{
	int fd = connected(SOCK_DGRAM, 7001), done = 0;
	uint64_t began;

	for (int i = 0; i < 32; i++)
		echo(fd);
	mark('e');
	began = tsc();
	for (int i = 0; i < ECHOES; i++)
		done += echo(fd);
	began = tsc() - began;
	mark('E');
	if (done == ECHOES)
		figure("linux-net-echo", "instructions", (double)began / ECHOES);
	else
		printf("%d of %d packets came back\n", done, ECHOES);
	close(fd);
}

static void bulk(char what, const char *row)
{
	int fd = connected(SOCK_STREAM, 7003);
	size_t left = (size_t)BULK << 20;
	uint64_t began;
	ssize_t n = 1;

	mark(what);
	began = tsc();
	if (write(fd, &what, 1) != 1)
		return;
	while (left && n > 0) {
		size_t piece = left < PIECE ? left : PIECE;

		n = what == 's' ? write(fd, buffer, piece) : read(fd, buffer, piece);
		left -= n > 0 ? (size_t)n : 0;
	}
	if (what == 's') {
		shutdown(fd, SHUT_WR);
		n = read(fd, buffer, 1);
	}
	began = tsc() - began;
	mark((char)(what - 'a' + 'A'));
	if (n > 0 && !left)
		figure(row, "instructions", (double)began / BULK);
	close(fd);
}

void net(int more)
{
	char *const load[] = { "/bin/modprobe", "virtio_net", NULL };
	int fd;

	run(load);
	for (int i = 0; i < 100 && access("/sys/class/net/eth0", F_OK); i++)
		usleep(20000);
	if (link_up()) {
		perror("eth0");
		return;
	}
	fd = connected(SOCK_DGRAM, 7001);
	for (int i = 0; i < 5 && !echo(fd); i++)
		;
	close(fd);
	packets(more);
	echoes();
	bulk('s', "linux-net-mib-out");
	bulk('g', "linux-net-mib-in");
}
