// SPDX-License-Identifier: GPL-2.0
/*
 * A tap device, as vhost uses it: packets one by one from and to the memory of the process, and small
 * ones to the tap by the batch. See netio.rs.
 */
#include <linux/fs.h>
#include <linux/if_tun.h>
#include <linux/net.h>
#include <linux/skbuff.h>
#include <linux/slab.h>
#include <linux/uio.h>
#include <linux/version.h>
#include <linux/virtio_net.h>
#include <net/sock.h>
#include <net/xdp.h>

#include "shim.h"

/*
 * By name, so that the module loads without the tap's. The file keeps the tap's module, and the
 * socket is a part of what the file holds.
 */
int rvmm_tap_socket(struct file *file, void **socket)
{
	typeof(&tun_get_socket) get = symbol_get(tun_get_socket);
	struct socket *sock;

	if (!get)
		return -EINVAL;
	sock = get(file);
	symbol_put(tun_get_socket);
	if (IS_ERR(sock))
		return PTR_ERR(sock);
	*socket = sock;
	return 0;
}

int rvmm_tap_set_offloads(struct file *file, u32 offloads)
{
	return file->f_op->unlocked_ioctl(file, TUNSETOFFLOAD, offloads);
}

u32 rvmm_tap_next_len(void *socket)
{
	struct socket *sock = socket;
	int len = sock->ops->peek_len(sock);

	return len < 0 ? 0 : len;
}

s64 rvmm_tap_send(void *socket, const struct iovec *iov, u32 segments, u64 bytes, bool nowait)
{
	struct socket *sock = socket;
	struct msghdr msg = { .msg_flags = nowait ? MSG_DONTWAIT : 0 };

	iov_iter_init(&msg.msg_iter, ITER_SOURCE, iov, segments, bytes);
	return sock->ops->sendmsg(sock, &msg, bytes);
}

s64 rvmm_tap_receive(void *socket, const struct iovec *iov, u32 segments, u64 bytes)
{
	struct socket *sock = socket;
	struct msghdr msg = { };

	iov_iter_init(&msg.msg_iter, ITER_DEST, iov, segments, bytes);
	return sock->ops->recvmsg(sock, &msg, bytes, MSG_DONTWAIT);
}

/* A tap takes a packet out of its queue even if there is no room for the header. */
void rvmm_tap_drop(void *socket)
{
	struct socket *sock = socket;
	struct msghdr msg = { };
	u8 byte;
	struct kvec vec = { .iov_base = &byte, .iov_len = 1 };

	iov_iter_kvec(&msg.msg_iter, ITER_DEST, &vec, 1, 1);
	sock->ops->recvmsg(sock, &msg, 1, MSG_DONTWAIT);
}

/* No header that a tap knows is longer, and there is so much room before each packet. */
#define RVMM_TAP_HEADERS	32

/* Packets that wait to be sent together, each in a page fragment that the tap makes a buffer of. */
#define RVMM_TAP_BATCH	64

struct rvmm_tap_batch {
	struct page_frag_cache fragments;
	int count;
	struct xdp_buff packets[RVMM_TAP_BATCH];
};

struct rvmm_tap_batch *rvmm_tap_batch_new(void)
{
	return kvzalloc(sizeof(struct rvmm_tap_batch), GFP_KERNEL_ACCOUNT);
}

static void rvmm_tap_batch_drop(struct rvmm_tap_batch *batch)
{
	while (batch->count)
		put_page(virt_to_head_page(batch->packets[--batch->count].data));
}

void rvmm_tap_batch_free(struct rvmm_tap_batch *batch)
{
	rvmm_tap_batch_drop(batch);
	page_frag_cache_drain(&batch->fragments);
	kvfree(batch);
}

/* The header is the guest's: what it says of its own length is made true, or the packet refused. */
static bool rvmm_tap_header_is_good(struct virtio_net_hdr *header, size_t bytes)
{
	u32 least;

	if (!(header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM))
		return true;
	least = le16_to_cpu((__force __le16)header->csum_start) +
		le16_to_cpu((__force __le16)header->csum_offset) + 2;
	if (least > bytes)
		return false;
	if (least > le16_to_cpu((__force __le16)header->hdr_len))
		header->hdr_len = (__force __virtio16)cpu_to_le16((u16)least);
	return true;
}

/*
 * Earlier kernels want another header in front of the packet. A limit on the memory of what is sent is
 * not watched over for batches.
 */
static bool rvmm_tap_can_batch(struct socket *sock)
{
	return LINUX_VERSION_CODE >= KERNEL_VERSION(6, 18, 0) && READ_ONCE(sock->sk->sk_sndbuf) == INT_MAX;
}

static noinline bool rvmm_tap_gather_pieces(void *to, const struct iovec *iov, u32 segments, u64 bytes)
{
	struct iov_iter iter;

	iov_iter_init(&iter, ITER_SOURCE, iov, segments, bytes);
	return copy_from_iter_full(to, bytes, &iter);
}

/* Copies a packet, which is in one piece mostly. */
static bool rvmm_tap_gather(void *to, const struct iovec *iov, u32 segments, u64 bytes)
{
	if (likely(segments == 1 && iov->iov_len == bytes))
		return !copy_from_user(to, iov->iov_base, bytes);
	return rvmm_tap_gather_pieces(to, iov, segments, bytes);
}

int rvmm_tap_batch_add(struct rvmm_tap_batch *batch, void *socket, const struct iovec *iov, u32 segments,
		       u64 bytes)
{
	struct socket *sock = socket;
	/* The tap looks for a header of any kind that it knows, and all of them begin with this one. */
	const size_t header = sizeof(struct virtio_net_hdr_v1);
	size_t room = sock_flag(sock->sk, SOCK_XDP) ? XDP_PACKET_HEADROOM : 0;
	size_t front = SKB_DATA_ALIGN(NET_IP_ALIGN + NET_SKB_PAD + room + header);
	size_t tail = SKB_DATA_ALIGN(sizeof(struct skb_shared_info));
	struct xdp_buff *packet;
	size_t all;
	char *buf;

	BUILD_BUG_ON(sizeof(struct virtio_net_hdr_v1_hash_tunnel) > RVMM_TAP_HEADERS);
	BUILD_BUG_ON(NET_SKB_PAD < RVMM_TAP_HEADERS);
	if (!rvmm_tap_can_batch(sock) || batch->count == RVMM_TAP_BATCH || bytes > PAGE_SIZE)
		return -ENOSPC;
	all = SKB_DATA_ALIGN(bytes + front) + tail;
	if (all > PAGE_SIZE)
		return -ENOSPC;
	if (bytes < header + ETH_HLEN)
		return -EINVAL;
	buf = page_frag_alloc_align(&batch->fragments, all, GFP_KERNEL, SMP_CACHE_BYTES);
	if (!buf)
		return -ENOSPC;
	/* All that the tap may take for a header; the rest of the front is nobody's. */
	memset(buf, 0, RVMM_TAP_HEADERS);
	if (!rvmm_tap_gather(buf + front - header, iov, segments, bytes)) {
		page_frag_free(buf);
		return -EFAULT;
	}
	memcpy(buf, buf + front - header, header);
	if (!rvmm_tap_header_is_good((struct virtio_net_hdr *)buf, bytes)) {
		page_frag_free(buf);
		return -EINVAL;
	}
	packet = &batch->packets[batch->count++];
	xdp_init_buff(packet, all, NULL);
	xdp_prepare_buff(packet, buf, front, bytes - header, true);
	return 0;
}

void rvmm_tap_batch_send(struct rvmm_tap_batch *batch, void *socket)
{
	struct socket *sock = socket;
	struct tun_msg_ctl all = { .type = TUN_MSG_PTR, .num = batch->count, .ptr = batch->packets };
	struct msghdr msg = {
		.msg_flags = MSG_DONTWAIT, .msg_control = &all, .msg_controllen = sizeof(all)
	};

	if (!batch->count)
		return;
	/* Once it has begun, all the packets are the tap's. */
	if (sock->ops->sendmsg(sock, &msg, 0) < 0)
		rvmm_tap_batch_drop(batch);
	batch->count = 0;
}
