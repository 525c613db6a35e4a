// SPDX-License-Identifier: GPL-2.0
/*
 * The rows of the network card. The guest is 10.9.0.2; tests/bench/linux/peer.c at
 * 10.9.0.1 answers what comes to port 7001 with the same, and tells on port 7002
 * how many packets came in order since it was last asked.
 */
#include "tiny.h"

#define VIRTIO_NET	1
#define F_MAC		(1ull << 5)
#define RECEIVE		0
#define SEND		1
#define BUFFER		2048
#define PAYLOAD		64
#define PACKETS		2048
#define PACKET_ROUNDS	10
#define ECHOES		128
#define ECHO_ROUNDS	18
#define WARM_UP		2
#define PORT_ECHO	7001
#define PORT_COUNT	7002
/* First word of a payload that asks for the count. */
#define ASK		UINT32_MAX
/* A first packet may be lost while the link comes up. */
#define TRIES		10
#define PATIENCE	100000000
#define ROUND_PATIENCE	(20ull * PATIENCE)

#define ETHERTYPE_IP	0x0800
#define ETHERTYPE_ARP	0x0806
#define IP_ME		0x0a090002
#define IP_PEER		0x0a090001

struct packet {
	uint8_t virtio[12];
	uint8_t to[6], from[6];
	uint16_t type;
	union {
		struct {
			uint8_t version, service;
			uint16_t length, id, fragment;
			uint8_t lives, protocol;
			uint16_t checksum;
			uint32_t source, destination;
			uint16_t source_port, port, udp_length, udp_checksum;
			uint32_t payload[PAYLOAD / 4];
		} __attribute__((packed)) ip;
		struct {
			uint16_t hardware, protocol, lengths, operation;
			uint8_t sender[6];
			uint32_t sender_ip;
			uint8_t target[6];
			uint32_t target_ip;
		} __attribute__((packed)) arp;
	};
} __attribute__((packed));

#define IP_BYTES (sizeof(struct packet))
#define ARP_BYTES (12 + 14 + 28)

static struct device device;
static struct queue sender, receiver;
static struct ring_memory send_ring, receive_ring;
static uint8_t received[RING][BUFFER] __attribute__((aligned(4096)));
static struct packet packets[RING] __attribute__((aligned(128)));
static uint8_t mac[6], peer_mac[6];
static uint16_t free_slots = RING, next_slot;

static uint16_t be16(unsigned int value)
{
	return __builtin_bswap16((uint16_t)value);
}

static void copy_mac(uint8_t *to, const volatile uint8_t *from)
{
	for (int i = 0; i < 6; i++)
		to[i] = from[i];
}

int net_init(void)
{
	if (!pci_find(VIRTIO_NET, &device))
		return 0;
	if (!(virtio_begin(&device, F_MAC) & F_MAC))
		die("the network card has no address");
	copy_mac(mac, device.config);
	virtio_queue(&device, RECEIVE, &receiver, &receive_ring);
	virtio_queue(&device, SEND, &sender, &send_ring);
	virtio_ready(&device);
	for (uint16_t i = 0; i < RING; i++) {
		receive_ring.descriptors[i] = (struct descriptor){ (uintptr_t)received[i], BUFFER, F_WRITE, 0 };
		send_ring.descriptors[i] = (struct descriptor){ (uintptr_t)&packets[i], IP_BYTES, 0, 0 };
		queue_add(&receiver, i);
	}
	queue_publish(&receiver);
	return 1;
}

/* Takes back what the card has sent. */
static void reap_sent(void)
{
	uint32_t length;

	while (queue_next(&sender, &length) >= 0)
		free_slots++;
}

/* A packet of `bytes` to fill in; the card gives them back in their order, or a whole ring is gone. */
static struct packet *begin(unsigned int bytes)
{
	struct packet *packet = &packets[next_slot];

	while (!free_slots) {
		queue_publish(&sender);
		/* An interrupt for each packet would be waste: wait for most of them. */
		queue_wait(&sender, RING * 3 / 4);
		reap_sent();
	}
	free_slots--;
	send_ring.descriptors[next_slot].length = bytes;
	queue_add(&sender, next_slot);
	next_slot = (next_slot + 1) % RING;
	return packet;
}

static void begin_ip(unsigned int port, uint32_t first)
{
	struct packet *packet = begin(IP_BYTES);

	packet->ip.port = be16(port);
	packet->ip.payload[0] = first;
}

/* What is the same in all packets. */
static void prepare(void)
{
	for (int i = 0; i < RING; i++) {
		struct packet *packet = &packets[i];
		uint32_t sum = 0;

		copy_mac(packet->to, peer_mac);
		copy_mac(packet->from, mac);
		packet->type = be16(ETHERTYPE_IP);
		packet->ip.version = 0x45;
		packet->ip.length = be16(20 + 8 + PAYLOAD);
		packet->ip.lives = 64;
		packet->ip.protocol = 17;
		packet->ip.source = __builtin_bswap32(IP_ME);
		packet->ip.destination = __builtin_bswap32(IP_PEER);
		packet->ip.id = packet->ip.fragment = packet->ip.service = packet->ip.checksum = 0;
		for (int j = 0; j < 20; j += 2)
			sum += *(uint16_t *)((uint8_t *)&packet->ip + j);
		sum = (sum & 0xffff) + (sum >> 16);
		packet->ip.checksum = (uint16_t)~((sum & 0xffff) + (sum >> 16));
		packet->ip.source_port = be16(PORT_ECHO);
		packet->ip.udp_length = be16(8 + PAYLOAD);
		packet->ip.udp_checksum = 0;
		for (int j = 0; j < PAYLOAD / 4; j++)
			packet->ip.payload[j] = (uint32_t)(j * 0x01010101);
	}
}

static void send_arp(unsigned int operation, const uint8_t *to)
{
	struct packet *packet = begin(ARP_BYTES);

	copy_mac(packet->to, to);
	copy_mac(packet->from, mac);
	packet->type = be16(ETHERTYPE_ARP);
	packet->arp.hardware = be16(1);
	packet->arp.protocol = be16(ETHERTYPE_IP);
	packet->arp.lengths = be16(0x0604);
	packet->arp.operation = be16(operation);
	copy_mac(packet->arp.sender, mac);
	packet->arp.sender_ip = __builtin_bswap32(IP_ME);
	copy_mac(packet->arp.target, to);
	packet->arp.target_ip = __builtin_bswap32(IP_PEER);
	queue_publish(&sender);
	/* The slots are those of UDP packets otherwise. */
	while (free_slots < RING) {
		queue_wait(&sender, 1);
		reap_sent();
	}
	prepare();
}

/* The next packet for the guest, or NULL; give_back() it. Answers ARP by itself. */
static struct packet *receive(int *slot)
{
	uint32_t length;
	struct packet *packet;

	*slot = queue_next(&receiver, &length);
	if (*slot < 0)
		return NULL;
	packet = (struct packet *)received[*slot % RING];
	if (packet->type != be16(ETHERTYPE_ARP) || packet->arp.target_ip != __builtin_bswap32(IP_ME))
		return packet;
	copy_mac(peer_mac, packet->arp.sender);
	if (packet->arp.operation == be16(1))
		send_arp(2, peer_mac);
	return packet;
}

static void give_back(int slot)
{
	queue_add(&receiver, (uint16_t)slot);
	queue_publish(&receiver);
}

static uint64_t give_up;

/* Sets the time within which answers have to come. */
static void patience(uint64_t instructions)
{
	give_up = alarm(instructions);
}

/* Waits for an answer to what was sent last; copies the payload's first two words. False: none came in time. */
static int answered(uint32_t words[2])
{
	for (;;) {
		int slot;
		struct packet *packet = receive(&slot);
		int is_it = packet && packet->type == be16(ETHERTYPE_IP) && packet->ip.protocol == 17;

		if (is_it) {
			words[0] = packet->ip.payload[0];
			words[1] = packet->ip.payload[1];
		}
		if (packet)
			give_back(slot);
		if (is_it)
			return 1;
		if (tsc() > give_up)
			return 0;
		if (!packet)
			queue_wait(&receiver, 1);
	}
}

static void find_peer(void)
{
	static const uint8_t all[6] = { 255, 255, 255, 255, 255, 255 };
	int slot;

	for (int i = 0; i < TRIES && !peer_mac[0] && !peer_mac[5]; i++) {
		send_arp(1, all);
		sleep(PATIENCE);
		while (receive(&slot))
			give_back(slot);
	}
	if (!peer_mac[0] && !peer_mac[5])
		die("the host does not answer");
	prepare();
}

static int echo(uint32_t number)
{
	uint32_t words[2];

	begin_ip(PORT_ECHO, number);
	queue_publish(&sender);
	if (!answered(words))
		return 0;
	reap_sent();
	return words[0] == number && words[1] == 0x01010101;
}

/* Sends a round of packets; returns whether all of them came. */
static int burst(uint32_t number)
{
	uint32_t words[2];

	for (uint32_t i = 0; i < number; i++)
		begin_ip(PORT_COUNT, i);
	begin_ip(PORT_COUNT, ASK);
	queue_publish(&sender);
	words[1] = 0;
	if (!answered(words))
		print("no answer: ");
	reap_sent();
	if (words[0] == ASK && words[1] == number)
		return 1;
	print("%u of %u packets came\n", (uint64_t)words[1], (uint64_t)number);
	return 0;
}

static void packet_row(void)
{
	uint64_t rounds[PACKET_ROUNDS], interrupts = 0, kicks = 0;
	const uint64_t number = (PACKET_ROUNDS - WARM_UP) * PACKETS;

	begin_row("net-packet");
	for (int i = 0; i < PACKET_ROUNDS; i++) {
		uint64_t before;

		if (i == WARM_UP) {
			mark('p');
			interrupts = virtio_interrupts;
			kicks = sender.kicks;
		}
		patience(ROUND_PATIENCE);
		before = tsc();
		if (!burst(PACKETS))
			die("packets were lost");
		rounds[i] = (tsc() - before) * 1000 / PACKETS;
	}
	interrupts = (virtio_interrupts - interrupts) * 1000 / number;
	kicks = (sender.kicks - kicks) * 1000 / number;
	mark('P');
	figures("net-packet", "", "instructions", rounds + WARM_UP, PACKET_ROUNDS - WARM_UP);
	figures("net-packet", "-irqs", "interrupts", &interrupts, 1);
	figures("net-packet", "-kicks", "kicks", &kicks, 1);
}

static void echo_row(void)
{
	uint64_t rounds[ECHO_ROUNDS], interrupts = 0;

	begin_row("net-echo");
	for (int i = 0; i < ECHO_ROUNDS; i++) {
		uint64_t before;

		if (i == WARM_UP) {
			mark('q');
			interrupts = virtio_interrupts;
		}
		patience(ROUND_PATIENCE);
		before = tsc();
		for (uint32_t j = 0; j < ECHOES; j++)
			if (!echo(j))
				die("a packet did not come back");
		rounds[i] = (tsc() - before) * 1000 / ECHOES;
	}
	interrupts = (virtio_interrupts - interrupts) * 1000 / ((ECHO_ROUNDS - WARM_UP) * ECHOES);
	mark('Q');
	figures("net-echo", "", "instructions", rounds + WARM_UP, ECHO_ROUNDS - WARM_UP);
	figures("net-echo", "-irqs", "interrupts", &interrupts, 1);
}

void net_rows(int forever)
{
	find_peer();
	for (int i = 0;; i++) {
		patience(PATIENCE);
		if (echo(1))
			break;
		if (i == TRIES)
			die("no packet comes back");
	}
	if (forever) {
		mark('p');
		for (;;) {
			patience(PATIENCE);
			burst(PACKETS);
		}
	}
	packet_row();
	echo_row();
}
