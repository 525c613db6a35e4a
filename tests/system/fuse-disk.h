// SPDX-License-Identifier: GPL-2.0
/*
 * A file system of one file of 1 MiB, "disk", that a thread of ours serves: FUSE by its device, as the kernel's
 * <linux/fuse.h> has it.
 */
#ifndef FUSE_DISK_H
#define FUSE_DISK_H

#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* `stalls`: who reads the file has no answer; then `is_stalled`. */
struct fuse_disk { int fd; bool stalls; volatile bool is_stalled; };

/* Mounts it, yet to be served. Returns whether there is FUSE here. */
static inline bool fuse_mount(struct fuse_disk *d, const char *where)
{
	char options[80];

	d->fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0", d->fd);
	mkdir(where, 0700);
	return d->fd >= 0 && !mount("fuse", where, "fuse", 0, options);
}

static inline void fuse_reply(int fd, uint64_t unique, int error, const void *data, size_t bytes)
{
	struct fuse_out_header head = { .len = sizeof(head) + bytes, .error = -error, .unique = unique };
	struct iovec parts[] = { { &head, sizeof(head) }, { (void *)data, bytes } };

	if (writev(fd, parts, 2) < 0 && errno != ENOENT)
		warn("an answer to FUSE");
}

static inline struct fuse_attr fuse_attributes(uint64_t node)
{
	bool is_disk = node != FUSE_ROOT_ID;

	return (struct fuse_attr){ .ino = node, .size = is_disk ? 1 << 20 : 0, .nlink = 1, .blksize = 4096,
				   .mode = is_disk ? S_IFREG | 0600 : S_IFDIR | 0700 };
}

/* Answers requests until the file system is gone. */
static inline void *fuse_serve(void *disk)
{
	static uint8_t request[1 << 17], zeros[1 << 17];
	struct fuse_disk *d = disk;

	for (;;) {
		struct fuse_in_header *in = (void *)request;
		ssize_t n = read(d->fd, request, sizeof(request));

		if (n < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOENT))
			continue;
		if (n < (ssize_t)sizeof(*in))
			return NULL;
		switch (in->opcode) {
		case FUSE_INIT: {
			struct fuse_init_out out = { .major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION,
						     .max_write = 65536 };

			fuse_reply(d->fd, in->unique, 0, &out, sizeof(out));
			break;
		}
		case FUSE_LOOKUP: {
			struct fuse_entry_out out = { .nodeid = 2, .attr = fuse_attributes(2) };
			bool is_there = !strcmp((char *)(in + 1), "disk");

			fuse_reply(d->fd, in->unique, is_there ? 0 : ENOENT, &out, is_there ? sizeof(out) : 0);
			break;
		}
		case FUSE_GETATTR: case FUSE_SETATTR: {
			struct fuse_attr_out out = { .attr = fuse_attributes(in->nodeid) };

			fuse_reply(d->fd, in->unique, 0, &out, sizeof(out));
			break;
		}
		case FUSE_OPEN: {
			/* No page cache before the server. */
			struct fuse_open_out out = { .fh = 1, .open_flags = FOPEN_DIRECT_IO };

			fuse_reply(d->fd, in->unique, 0, &out, sizeof(out));
			break;
		}
		case FUSE_READ:
			if (d->stalls)
				d->is_stalled = true;
			else
				fuse_reply(d->fd, in->unique, 0, zeros, ((struct fuse_read_in *)(in + 1))->size);
			break;
		case FUSE_RELEASE: case FUSE_FLUSH: case FUSE_FSYNC:
			fuse_reply(d->fd, in->unique, 0, NULL, 0);
			break;
		case FUSE_FORGET: case FUSE_BATCH_FORGET: case FUSE_INTERRUPT:
			break;
		default:
			fuse_reply(d->fd, in->unique, ENOSYS, NULL, 0);
		}
	}
}

#endif
