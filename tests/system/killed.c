// SPDX-License-Identifier: GPL-2.0
/*
 * What a process leaves behind that is killed, or closes its files: no file that a device goes on holding, no
 * module in use, no thread that waits for ever. Prints KTAP.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/if_tun.h>
#include <linux/io_uring.h>
#include <linux/loop.h>
#include <net/if.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "caller.h"
#include "fuse-disk.h"

/* A machine whose guest loops for ever. */
static struct machine make_with(bool irqchip)
{
	return make_guest("\xeb\xfe", 2, irqchip);
}

static struct machine make(void)
{
	return make_with(false);
}

static int add_net(const struct machine *m, int fd, uint32_t flags)
{
	struct rvmm_virtio_net_config net = { { fd, -1, -1, -1, -1, -1, -1, -1 }, .flags = flags, .pairs = 1, .mac = { 2 } };

	return add(m, RVMM_DEV_VIRTIO_NET, &net);
}

struct lent { int device, queue; pthread_t thread; int error; volatile bool left; };

static void *lend(void *arg)
{
	struct lent *lent = arg;

	lent->error = ioctl(lent->device, RVMM_DEV_RUN, (long)lent->queue) < 0 ? errno : 0;
	lent->left = true;
	return NULL;
}

/* Lends a thread to a queue, and gives it time to get there. */
static void start(struct lent *lent)
{
	pthread_create(&lent->thread, NULL, lend, lent);
	usleep(300000);
}

/* Interrupts a lent thread until it leaves. Returns the error that it came back with. */
static int stop(struct lent *lent)
{
	for (int i = 0; i < 100 && !lent->left; i++) {
		pthread_kill(lent->thread, SIGUSR1);
		usleep(20000);
	}
	pthread_join(lent->thread, NULL);
	return lent->error;
}

/* Returns whether the other end of a socket is closed. */
static bool ended(int fd)
{
	char byte;

	return recv(fd, &byte, 1, MSG_DONTWAIT) == 0;
}

static void stream_is_not_held(void)
{
	struct machine m = make();
	int ends[2], card;

	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), "socketpair");
	add_bus(&m);
	card = add_net(&m, ends[0], RVMM_NET_STREAM);
	struct lent lent = { .device = card };

	start(&lent);
	close(ends[0]);
	check("a thread that is lent to a card holds the stream", !lent.left && !ended(ends[1]));
	check("a signal ends the loan", stop(&lent) == EINTR);
	check("a card without a thread does not hold its stream", ended(ends[1]));
	lent.left = false;
	start(&lent);
	check("no thread is lent to a card whose stream is closed", stop(&lent) == EBADF);
	must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), "socketpair");
	lent.left = false;
	start(&lent);
	check("nor where another one got the number", stop(&lent) == EBADF);
}

/*
 * A disk whose file is in what is mounted on /tmp/held, or is made of such a file. `fd`: that file, open once. `what`: what
 * it is, for the results.
 */
static void file_is_not_held(int fd, const char *what)
{
	struct machine m = make();
	struct lent lent = { 0 };
	char name[3][100];
	bool is_free = false;

	snprintf(name[0], sizeof(name[0]), "a thread that is lent to a disk holds its %s", what);
	snprintf(name[1], sizeof(name[1]), "a signal ends the loan of a disk's %s", what);
	snprintf(name[2], sizeof(name[2]), "a disk without a thread does not hold its %s", what);
	add_bus(&m);
	lent.device = add_disk(&m, fd);
	start(&lent);
	close(fd);
	check(name[0], umount("/tmp/held") && errno == EBUSY);
	check(name[1], stop(&lent) == EINTR);
	/* A loop device is taken apart a little later. */
	for (int i = 0; i < 100 && !(is_free = !umount("/tmp/held")); i++)
		usleep(20000);
	check(name[2], is_free);
	umount2("/tmp/held", MNT_DETACH);
}

static int tmpfs_file(void)
{
	int fd;

	mkdir("/tmp/held", 0700);
	must(mount("held", "/tmp/held", "tmpfs", 0, NULL), "mount");
	fd = must(open("/tmp/held/disk", O_RDWR | O_CREAT | O_CLOEXEC, 0600), "disk");
	must(ftruncate(fd, 1 << 20), "ftruncate");
	return fd;
}

static void loop_is_not_held(void)
{
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), number, loop;
	struct loop_config config = { .info.lo_flags = LO_FLAGS_AUTOCLEAR };
	char path[32];

	if (control < 0 || (number = ioctl(control, LOOP_CTL_GET_FREE)) < 0) {
		skip("a disk without a thread does not hold its loop device", "no loop devices here");
		return;
	}
	snprintf(path, sizeof(path), "/dev/loop%d", number);
	loop = must(open(path, O_RDWR | O_CLOEXEC), path);
	config.fd = tmpfs_file();
	must(ioctl(loop, LOOP_CONFIGURE, &config), "LOOP_CONFIGURE");
	close(config.fd);
	close(control);
	file_is_not_held(loop, "loop device");
}

static void fuse_is_not_held(void)
{
	struct fuse_disk disk = { 0 };
	pid_t server;

	if (!fuse_mount(&disk, "/tmp/held")) {
		skip("a disk without a thread does not hold its file on FUSE", "no FUSE here");
		return;
	}
	fflush(stdout);
	server = must(fork(), "fork");
	if (!server) {
		fuse_serve(&disk);
		_exit(0);
	}
	close(disk.fd);
	file_is_not_held(must(open("/tmp/held/disk", O_RDWR | O_CLOEXEC), "disk"), "file on FUSE");
	kill(server, SIGKILL);
	waitpid(server, NULL, 0);
}

static void tap_is_not_held(void)
{
	struct machine m = make();
	struct ifreq name = { .ifr_name = "held0", .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int tap = open("/dev/net/tun", O_RDWR | O_CLOEXEC), header = 12;
	struct lent lent = { .queue = 1 };

	if (tap < 0 || ioctl(tap, TUNSETIFF, &name) || ioctl(tap, TUNSETVNETHDRSZ, &header)) {
		skip("a card without a thread does not hold its tap", "no taps here");
		return;
	}
	add_bus(&m);
	lent.device = add_net(&m, tap, 0);
	start(&lent);
	close(tap);
	check("a thread that is lent to a card holds the tap", if_nametoindex("held0"));
	stop(&lent);
	for (int i = 0; i < 50 && if_nametoindex("held0"); i++)
		usleep(20000);
	check("a card without a thread does not hold its tap", !if_nametoindex("held0"));
}

/* Queues copies of fds in a socket. */
static void send_fds(int socket, const int *fds, int count)
{
	char byte = 0;
	struct iovec data = { &byte, 1 };
	union { char room[CMSG_SPACE(4 * sizeof(int))]; struct cmsghdr align; } control = { 0 };
	struct msghdr message = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control.room,
				  .msg_controllen = CMSG_SPACE(count * sizeof(int)) };
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);

	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(count * sizeof(int));
	memcpy(CMSG_DATA(header), fds, count * sizeof(int));
	must(sendmsg(socket, &message, 0), "sendmsg");
}

static unsigned int module_users(void)
{
	unsigned int users = ~0u;
	FILE *f = fopen("/sys/module/rvmm/refcnt", "r");

	if (f && fscanf(f, "%u", &users) != 1)
		users = ~0u;
	if (f)
		fclose(f);
	return users;
}

/*
 * Runs `body` in a process, kills that in the middle, and looks whether all that it made goes with it, once `after` is done,
 * if anything.
 */
static void killed_and(const char *name, void (*body)(void), void (*after)(void))
{
	int ready[2], status = 0;
	char byte = 0;
	pid_t pid;
	bool gone;

	must(pipe(ready), "pipe");
	fflush(stdout);
	pid = must(fork(), "fork");
	if (!pid) {
		body();
		must(write(ready[1], &byte, 1), "write");
		for (;;)
			pause();
	}
	close(ready[1]);
	bool began = read(ready[0], &byte, 1) == 1;
	close(ready[0]);
	kill(pid, SIGKILL);
	if (after)
		after();
	gone = ends_within(pid, 10, &status) && WIFSIGNALED(status);
	for (int i = 0; i < 250 && module_users() != 0; i++)
		usleep(20000);
	check(name, began && gone && !module_users());
	printf("# began %d, gone %d, users of the module %u\n", began, gone, module_users());
}

static void killed(const char *name, void (*body)(void))
{
	killed_and(name, body, NULL);
}

/* The socket's queue holds the device, which has the socket. */
static void stream_with(bool lends)
{
	struct machine m = make();
	int ends[2];

	must(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), "socketpair");
	add_bus(&m);
	int fds[] = { add_net(&m, ends[0], RVMM_NET_STREAM), m.vcpu, m.vm };
	/* The transmit queue's, which does not read what is in the socket. */
	static struct lent lent = { .queue = 1 };

	lent.device = fds[0];
	if (lends)
		start(&lent);
	send_fds(ends[1], fds, 3);
}

static void stream_queue(void)
{
	stream_with(false);
}

static void lent_stream_queue(void)
{
	stream_with(true);
}

static int make_ring(void)
{
	struct io_uring_params params = { 0 };

	return syscall(SYS_io_uring_setup, 4, &params);
}

/* All that can be watched or kept of a machine, in an epoll and a queue, and where `rings` a ring of io_uring's. */
static void watched(bool rings)
{
	struct machine m = make_with(true);
	int event = eventfd(0, 0), epoll = epoll_create1(0), ends[2];
	int level[] = { eventfd(0, 0), eventfd(0, 0) };
	struct kvm_irqfd irqfd = { .fd = event, .gsi = 4 };
	struct kvm_ioeventfd ioeventfd = { .addr = 0x10000000, .len = 4, .fd = event };
	struct kvm_hyperv_eventfd connection = { .conn_id = 1, .fd = event };
	struct epoll_event in = { .events = EPOLLIN };

	must(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), "socketpair");
	add_bus(&m);
	int card = add_net(&m, ends[0], RVMM_NET_STREAM);
	int fds[] = { m.vm, m.vcpu, card, ends[0] }, watches[] = { event, level[0], level[1], epoll };

	must(ioctl(m.vm, KVM_IRQFD, &irqfd), "KVM_IRQFD");
	/* The end of each one's interrupt signals the other. */
	for (int i = 0; i < 2; i++) {
		struct kvm_irqfd resampled = { .fd = level[i], .gsi = 5 + i, .flags = KVM_IRQFD_FLAG_RESAMPLE,
					       .resamplefd = level[!i] };

		must(ioctl(m.vm, KVM_IRQFD, &resampled), "KVM_IRQFD");
	}
	must(ioctl(m.vm, KVM_IOEVENTFD, &ioeventfd), "KVM_IOEVENTFD");
	must(ioctl(m.vm, KVM_HYPERV_EVENTFD, &connection), "KVM_HYPERV_EVENTFD");
	must(epoll_ctl(epoll, EPOLL_CTL_ADD, event, &in), "epoll_ctl");
	must(epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &in), "epoll_ctl");
	if (rings)
		must(syscall(SYS_io_uring_register, must(make_ring(), "io_uring_setup"), IORING_REGISTER_FILES, fds, 4),
		     "register");
	send_fds(ends[1], fds, 3);
	send_fds(ends[1], watches, 4);
}

static void epoll_and_queue(void)
{
	watched(false);
}

static void ring_as_well(void)
{
	watched(true);
}

/* A thread is lent to a disk whose requests go to another thread of the process, which does not answer. */
static void own_fuse_disk(void)
{
	static struct fuse_disk disk = { .stalls = true };
	static struct lent lent;
	struct machine m = make();
	pthread_t server;

	must(fuse_mount(&disk, "/tmp/own") - 1, "FUSE");
	pthread_create(&server, NULL, fuse_serve, &disk);
	add_bus(&m);
	lent.device = add_disk(&m, must(open("/tmp/own/disk", O_RDWR | O_CLOEXEC), "disk"));
	drive_disk(&m);
	start(&lent);
	while (!disk.is_stalled)
		usleep(10000);
}

/*
 * The request ends with its connection, and that when its last user closes it: the thread that waits for the request is one.
 * The same is so without a module, for who reads from such a file; who administers the host ends the connection.
 */
static void end_fuse(void)
{
	usleep(300000);
	/* It is still in use, but its requests have ended. */
	umount2("/tmp/own", MNT_FORCE);
	umount2("/tmp/own", MNT_DETACH);
}

static void *run(void *arg)
{
	struct machine *m = arg;

	while (!m->run->immediate_exit)
		ioctl(m->vcpu, KVM_RUN, 0);
	return NULL;
}

/* Kills a process that asks something of a vCPU which another process runs. */
static void ask_a_running_vcpu(const char *name, unsigned long request)
{
	struct machine m = make();
	static char argument[4096];
	pthread_t runner;
	int status;
	pid_t asker;

	pthread_create(&runner, NULL, run, &m);
	usleep(300000);
	fflush(stdout);
	asker = must(fork(), "fork");
	if (!asker) {
		ioctl(m.vcpu, request, argument);
		_exit(0);
	}
	usleep(500000);
	bool waits = waitpid(asker, &status, WNOHANG) == 0;
	kill(asker, SIGKILL);
	check(name, waits && ends_within(asker, 10, &status) && WIFSIGNALED(status));
	m.run->immediate_exit = 1;
	pthread_kill(runner, SIGUSR1);
	pthread_join(runner, NULL);
	close(m.vcpu);
	close(m.vm);
	munmap(m.run, 3 * 4096);
}

static void nothing(int signal)
{
}

int main(void)
{
	struct sigaction action = { .sa_handler = nothing };
	int status, ring;

	setvbuf(stdout, NULL, _IOLBF, 0);
	sigaction(SIGUSR1, &action, NULL);
	ask_a_running_vcpu("killed while it waits to read a vCPU that runs", KVM_GET_REGS);
	ask_a_running_vcpu("killed while it waits to change a vCPU that runs", KVM_SET_MP_STATE);
	fflush(stdout);
	if (!fork()) {
		stream_is_not_held();
		file_is_not_held(tmpfs_file(), "file");
		loop_is_not_held();
		fuse_is_not_held();
		tap_is_not_held();
		fflush(stdout);
		_exit(results << 1 | !!failed);
	}
	wait(&status);
	results = WIFEXITED(status) ? WEXITSTATUS(status) >> 1 : 0;
	failed |= !WIFEXITED(status) || WEXITSTATUS(status) & 1;
	killed("killed with its own device, vCPU and VM in its stream's queue, all is freed", stream_queue);
	killed("the same while a thread is lent", lent_stream_queue);
	killed("killed with its files in an epoll and a queue, all is freed", epoll_and_queue);
	ring = make_ring();
	if (ring < 0)
		skip("killed with its files in a ring as well, all is freed", "no io_uring here");
	else
		killed("killed with its files in a ring as well, all is freed", ring_as_well);
	close(ring);
	if (access("/dev/fuse", F_OK))
		skip("killed while it waits for a disk that it serves itself, all is freed", "no FUSE here");
	else
		killed_and("killed while it waits for a disk that it serves itself, all is freed", own_fuse_disk, end_fuse);
	printf("1..%d\n", results);
	return failed != 0;
}
