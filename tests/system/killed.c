// SPDX-License-Identifier: GPL-2.0
/*
 * What a process leaves behind that is killed, or closes its files: no file that a device goes on holding, no
 * module in use, no thread that waits for ever. Prints KTAP.
 */
#define _GNU_SOURCE
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/io_uring.h>
#include <linux/kvm.h>
#include <net/if.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "rvmm_abi.h"

#define MEMORY		(1 << 20)

static int results, failed;

static void check(const char *name, bool good)
{
	printf("%sok %d %s\n", good ? "" : "not ", ++results, name);
	failed += !good;
}

static int must(int ret, const char *what)
{
	if (ret < 0)
		err(2, "%s", what);
	return ret;
}

struct machine { int vm, vcpu; struct kvm_run *run; uint8_t *memory; };

/* A machine with one vCPU whose guest loops for ever. */
static struct machine make_with(bool irqchip)
{
	int node = must(open("/dev/rvmm", O_RDWR | O_CLOEXEC), "/dev/rvmm");
	struct machine m = { .vm = must(ioctl(node, KVM_CREATE_VM, 0), "KVM_CREATE_VM") };
	struct kvm_regs regs = { .rip = 0x1000, .rflags = 2 };
	struct kvm_userspace_memory_region slot = { .memory_size = MEMORY };
	struct kvm_sregs sregs;

	m.memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	slot.userspace_addr = (uintptr_t)m.memory;
	memcpy(m.memory + 0x1000, "\xeb\xfe", 2);
	must(ioctl(m.vm, KVM_SET_USER_MEMORY_REGION, &slot), "KVM_SET_USER_MEMORY_REGION");
	if (irqchip)
		must(ioctl(m.vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
	m.vcpu = must(ioctl(m.vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
	m.run = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, m.vcpu, 0);
	must(ioctl(m.vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
	sregs.cs.base = sregs.cs.selector = 0;
	must(ioctl(m.vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
	must(ioctl(m.vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
	close(node);
	return m;
}

static struct machine make(void)
{
	return make_with(false);
}

/* Puts a device into the machine. Returns its fd. */
static int add(const struct machine *m, uint32_t type, const void *config)
{
	struct kvm_create_device d = { .type = type };
	struct kvm_device_attr a = { .group = RVMM_GROUP_CONFIG, .addr = (uintptr_t)config };

	must(ioctl(m->vm, KVM_CREATE_DEVICE, &d), "KVM_CREATE_DEVICE");
	must(ioctl(d.fd, KVM_SET_DEVICE_ATTR, &a), "KVM_SET_DEVICE_ATTR");
	return d.fd;
}

static void add_bus(const struct machine *m)
{
	close(add(m, RVMM_DEV_PCI_HOST, &(struct rvmm_pci_host_config){ 0xc0000000, 0x10000000 }));
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

static void disk_is_not_held(void)
{
	struct machine m = make();
	struct rvmm_virtio_blk_config blk = { 0 };
	struct lent lent = { 0 };

	mkdir("/tmp/held", 0700);
	must(mount("held", "/tmp/held", "tmpfs", 0, NULL), "mount");
	blk.fd = must(open("/tmp/held/disk", O_RDWR | O_CREAT | O_CLOEXEC, 0600), "disk");
	must(ftruncate(blk.fd, 1 << 20), "ftruncate");
	add_bus(&m);
	lent.device = add(&m, RVMM_DEV_VIRTIO_BLK, &blk);
	start(&lent);
	close(blk.fd);
	check("a thread that is lent to a disk holds the file", umount("/tmp/held") && errno == EBUSY);
	check("a signal ends that loan", stop(&lent) == EINTR);
	check("a disk without a thread does not hold its file", !umount("/tmp/held"));
	umount2("/tmp/held", MNT_DETACH);
}

static void tap_is_not_held(void)
{
	struct machine m = make();
	struct ifreq name = { .ifr_name = "held0", .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
	int tap = open("/dev/net/tun", O_RDWR | O_CLOEXEC), header = 12;
	struct lent lent = { .queue = 1 };

	if (tap < 0 || ioctl(tap, TUNSETIFF, &name) || ioctl(tap, TUNSETVNETHDRSZ, &header)) {
		printf("ok %d a card without a thread does not hold its tap # SKIP no taps here\n", ++results);
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

/* Returns whether a child of ours ends within some seconds. */
static bool ends_soon(pid_t pid, int *status)
{
	for (int i = 0; i < 500; i++) {
		if (waitpid(pid, status, WNOHANG) == pid)
			return true;
		usleep(20000);
	}
	return false;
}

/* Runs `body` in a process, kills that in the middle, and looks whether all that it made goes with it. */
static void killed(const char *name, void (*body)(void))
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
	gone = ends_soon(pid, &status) && WIFSIGNALED(status);
	for (int i = 0; i < 250 && module_users() != 0; i++)
		usleep(20000);
	check(name, began && gone && !module_users());
	printf("# began %d, gone %d, users of the module %u\n", began, gone, module_users());
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

/* All that can be watched or kept of a machine, in a ring of io_uring's and an epoll's. */
static void ring_and_epoll(void)
{
	struct machine m = make_with(true);
	int event = eventfd(0, 0), epoll = epoll_create1(0), ends[2];
	struct kvm_irqfd irqfd = { .fd = event, .gsi = 4 };
	struct kvm_ioeventfd ioeventfd = { .addr = 0x10000000, .len = 4, .fd = event };
	struct epoll_event in = { .events = EPOLLIN };
	struct io_uring_params params = { 0 };
	int ring = syscall(SYS_io_uring_setup, 4, &params);

	must(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), "socketpair");
	add_bus(&m);
	int card = add_net(&m, ends[0], RVMM_NET_STREAM);
	int fds[] = { m.vm, m.vcpu, card, ends[0] }, watches[] = { event, epoll };

	must(ioctl(m.vm, KVM_IRQFD, &irqfd), "KVM_IRQFD");
	must(ioctl(m.vm, KVM_IOEVENTFD, &ioeventfd), "KVM_IOEVENTFD");
	must(epoll_ctl(epoll, EPOLL_CTL_ADD, event, &in), "epoll_ctl");
	must(epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &in), "epoll_ctl");
	if (ring >= 0)
		must(syscall(SYS_io_uring_register, ring, IORING_REGISTER_FILES, fds, 4), "register");
	send_fds(ends[1], fds, 3);
	send_fds(ends[1], watches, 2);
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
	check(name, waits && ends_soon(asker, &status) && WIFSIGNALED(status));
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
	int status;

	setvbuf(stdout, NULL, _IOLBF, 0);
	sigaction(SIGUSR1, &action, NULL);
	ask_a_running_vcpu("killed while it waits to read a vCPU that runs", KVM_GET_REGS);
	ask_a_running_vcpu("killed while it waits to change a vCPU that runs", KVM_SET_MP_STATE);
	fflush(stdout);
	if (!fork()) {
		stream_is_not_held();
		disk_is_not_held();
		tap_is_not_held();
		fflush(stdout);
		_exit(results << 1 | !!failed);
	}
	wait(&status);
	results = WIFEXITED(status) ? WEXITSTATUS(status) >> 1 : 0;
	failed |= !WIFEXITED(status) || WEXITSTATUS(status) & 1;
	killed("killed with its own device, vCPU and VM in its stream's queue, all is freed", stream_queue);
	killed("the same while a thread is lent", lent_stream_queue);
	killed("killed with its files in a ring, an epoll and a queue, all is freed", ring_and_epoll);
	printf("1..%d\n", results);
	return failed != 0;
}
