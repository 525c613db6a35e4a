// SPDX-License-Identifier: GPL-2.0
/*
 * Makes a range of a block device read as zeroes, as mkfs does, and looks whether it does; for guests, which get it on
 * a disk.
 *
 * Usage: zero-range DEVICE FIRST-BYTE BYTES
 *
 * Prints "zero-range: done", or why not.
 */
#include <err.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { CHUNK = 65536 };

int main(int argc, char **argv)
{
	static unsigned char dirt[CHUNK], seen[CHUNK];
	uint64_t range[2];
	int fd;

	if (argc != 4)
		errx(2, "usage: zero-range DEVICE FIRST-BYTE BYTES");
	range[0] = strtoull(argv[2], NULL, 0);
	range[1] = strtoull(argv[3], NULL, 0);
	memset(dirt, 0x5a, sizeof(dirt));
	fd = open(argv[1], O_RDWR);
	if (fd < 0)
		err(1, "%s", argv[1]);
	for (uint64_t at = 0; at < range[1]; at += CHUNK)
		if (pwrite(fd, dirt, CHUNK, range[0] + at) != CHUNK)
			err(1, "write at %llu", (unsigned long long)at);
	if (fsync(fd))
		err(1, "fsync");
	if (ioctl(fd, BLKZEROOUT, range))
		err(1, "BLKZEROOUT");
	if (fsync(fd) || ioctl(fd, BLKFLSBUF))
		err(1, "flush");
	for (uint64_t at = 0; at < range[1]; at += CHUNK) {
		if (pread(fd, seen, CHUNK, range[0] + at) != CHUNK)
			err(1, "read at %llu", (unsigned long long)at);
		for (int i = 0; i < CHUNK; i++)
			if (seen[i])
				errx(1, "byte %llu is not zero", (unsigned long long)(at + i));
	}
	puts("zero-range: done");
	return 0;
}
