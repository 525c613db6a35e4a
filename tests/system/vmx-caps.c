// SPDX-License-Identifier: GPL-2.0
/*
 * Prints what VMX offers on this CPU, from its capability MSRs: the raw values
 * and the controls that may be set, by the names of the manual (SDM, "VMX
 * Capability Reporting Facility"). Needs the driver `msr`.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

struct bit {
	int bit;
	const char *name;
};

static int fd;

static int read_msr(uint32_t index, uint64_t *value)
{
	return pread(fd, value, sizeof(*value), index) == sizeof(*value);
}

/* One line: the raw value, then the names of the bits that are set in `bits`. */
static void show(const char *what, uint32_t index, uint64_t raw, uint64_t bits, const struct bit *names)
{
	printf("%s (%x) %016llx:", what, index, (unsigned long long)raw);
	for (; names->name; names++)
		if (bits >> names->bit & 1)
			printf(" %s", names->name);
	printf("\n");
}

static const struct bit basic[] = {{49, "dual-monitor"}, {54, "ins-outs-info"}, {55, "true-controls"}, {0, 0}};
static const struct bit pin[] = {{0, "extint"}, {3, "nmi"}, {5, "virtual-nmi"}, {6, "preemption-timer"}, {7, "posted-interrupts"}, {0, 0}};
static const struct bit primary[] = {
	{2, "interrupt-window"}, {3, "tsc-offset"}, {7, "hlt"}, {9, "invlpg"}, {10, "mwait"}, {11, "rdpmc"}, {12, "rdtsc"},
	{15, "cr3-load"}, {16, "cr3-store"}, {17, "tertiary"}, {19, "cr8-load"}, {20, "cr8-store"}, {21, "tpr-shadow"},
	{22, "nmi-window"}, {23, "mov-dr"}, {24, "io-exit"}, {25, "io-bitmaps"}, {27, "monitor-trap"}, {28, "msr-bitmaps"},
	{29, "monitor"}, {30, "pause"}, {31, "secondary"}, {0, 0}};
static const struct bit secondary[] = {
	{0, "apic-accesses"}, {1, "ept"}, {2, "descriptor-table"}, {3, "rdtscp"}, {4, "x2apic"}, {5, "vpid"}, {6, "wbinvd"},
	{7, "unrestricted-guest"}, {8, "apic-registers"}, {9, "virtual-interrupts"}, {10, "pause-loop"}, {11, "rdrand"},
	{12, "invpcid"}, {13, "vmfunc"}, {14, "vmcs-shadowing"}, {16, "rdseed"}, {17, "pml"}, {18, "ept-ve"}, {20, "xsaves"},
	{22, "mode-based-ept"}, {23, "spp"}, {25, "tsc-scaling"}, {0, 0}};
static const struct bit exits[] = {{2, "save-debug"}, {9, "host-64"}, {12, "perf-global"}, {15, "ack-interrupt"}, {18, "save-pat"}, {19, "load-pat"}, {20, "save-efer"}, {21, "load-efer"}, {22, "save-timer"}, {0, 0}};
static const struct bit entries[] = {{2, "load-debug"}, {9, "ia32e"}, {13, "perf-global"}, {14, "load-pat"}, {15, "load-efer"}, {16, "load-bndcfgs"}, {0, 0}};
static const struct bit misc[] = {{5, "lma-stored"}, {6, "hlt-state"}, {7, "shutdown-state"}, {8, "sipi-state"}, {29, "vmwrite-any"}, {30, "inject-length-0"}, {0, 0}};
static const struct bit ept[] = {
	{0, "exec-only"}, {6, "4-level"}, {7, "5-level"}, {8, "uc"}, {14, "wb"}, {16, "2m"}, {17, "1g"}, {20, "invept"}, {21, "accessed-dirty"},
	{25, "invept-single"}, {26, "invept-all"}, {32, "invvpid"}, {40, "invvpid-address"}, {41, "invvpid-single"},
	{42, "invvpid-all"}, {43, "invvpid-single-globals"}, {0, 0}};

int main(void)
{
	/* Of the "true" MSRs the high half says which controls may be 1. */
	static const struct { const char *what; uint32_t index; int shift; const struct bit *names; } table[] = {
		{"basic", 0x480, 0, basic}, {"pin", 0x48d, 32, pin}, {"pin", 0x481, 32, pin},
		{"primary", 0x48e, 32, primary}, {"primary", 0x482, 32, primary},
		{"secondary", 0x48b, 32, secondary}, {"exit", 0x48f, 32, exits}, {"exit", 0x483, 32, exits},
		{"entry", 0x490, 32, entries}, {"entry", 0x484, 32, entries}, {"misc", 0x485, 0, misc}, {"ept-vpid", 0x48c, 0, ept}};
	uint64_t value;

	fd = open("/dev/cpu/0/msr", O_RDONLY);
	if (fd < 0) {
		perror("/dev/cpu/0/msr");
		return 4;
	}
	if (!read_msr(0x3a, &value) || !read_msr(0x480, &value)) {
		printf("no VMX\n");
		return 1;
	}
	for (unsigned i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		if (!read_msr(table[i].index, &value))
			continue;
		show(table[i].what, table[i].index, value, value >> table[i].shift, table[i].names);
	}
	for (uint32_t index = 0x486; index <= 0x48a; index++)
		if (read_msr(index, &value))
			printf("%s (%x) %016llx\n", (const char *[]){"cr0-fixed0", "cr0-fixed1", "cr4-fixed0", "cr4-fixed1", "vmcs-enum"}[index - 0x486],
			       index, (unsigned long long)value);
	if (read_msr(0x3a, &value))
		printf("feature-control (3a) %016llx\n", (unsigned long long)value);
	return 0;
}
