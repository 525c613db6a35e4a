// SPDX-License-Identifier: GPL-2.0
/*
 * The host's end of the network rows: UDP port 7001 answers each packet with the
 * same. 7002 counts packets whose first words are 0, 1, 2 and so on; one that begins
 * with 0xffffffff is sent back with the count as its second word, and the count
 * begins anew. No packet is lost for want of room. TCP port 7003 reads a letter: 's'
 * reads until the end and then says 'k', 'g' sends 8 MiB.
 */
#include <arpa/inet.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MIB (1 << 20)
#define BULK 8
#define PIECE (64 << 10)

static char buffer[PIECE] __attribute__((aligned(8)));

static int listener(int type, int port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_port = htons((unsigned short)port) };
	int fd = socket(AF_INET, type, 0), on = 1, room = 16 * MIB;

	if (type == SOCK_DGRAM)
		setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *)&at, sizeof(at)))
		exit(1);
	if (type == SOCK_STREAM)
		listen(fd, 4);
	return fd;
}

static void stream(int fd)
{
	char what = 0;

	if (read(fd, &what, 1) == 1 && what == 's') {
		while (read(fd, buffer, PIECE) > 0)
			;
		if (write(fd, "k", 1) != 1)
			exit(1);
	} else if (what == 'g') {
		for (size_t left = BULK * (size_t)MIB; left;) {
			ssize_t n = write(fd, buffer, left < PIECE ? left : PIECE);

			if (n <= 0)
				break;
			left -= (size_t)n;
		}
	}
	close(fd);
}

/* Takes all packets that wait. */
static void packets(int fd, int is_echo)
{
	static uint32_t count;
	uint32_t *words = (uint32_t *)buffer;
	struct sockaddr_in from;
	socklen_t length = sizeof(from);
	ssize_t n;

	while ((n = recvfrom(fd, buffer, PIECE, MSG_DONTWAIT, (struct sockaddr *)&from, &length)) > 0) {
		int is_question = n >= 8 && words[0] == UINT32_MAX;

		if (!is_echo && !is_question) {
			count += words[0] == count;
			continue;
		}
		if (!is_echo) {
			words[1] = count;
			count = 0;
		}
		sendto(fd, buffer, (size_t)n, 0, (struct sockaddr *)&from, length);
	}
}

int main(void)
{
	struct pollfd fds[3] = { { listener(SOCK_DGRAM, 7001), POLLIN, 0 },
				 { listener(SOCK_DGRAM, 7002), POLLIN, 0 },
				 { listener(SOCK_STREAM, 7003), POLLIN, 0 } };

	while (poll(fds, 3, -1) > 0) {
		for (int i = 0; i < 2; i++)
			if (fds[i].revents)
				packets(fds[i].fd, i == 0);
		if (fds[2].revents)
			stream(accept(fds[2].fd, NULL, NULL));
	}
	return 1;
}
