// SPDX-License-Identifier: GPL-2.0
/*
 * The floor of the scoreboard: what an exit costs that nobody handles. Prints the
 * instructions (ticks, under icount) of one CPUID exit and refuses to stay loaded.
 *
 * For the emulated host only: it takes the processor's SVM for itself, so no other
 * hypervisor may be loaded.
 */
#include <linux/cpufeature.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/irqflags.h>
#include <linux/module.h>
#include <asm/msr.h>

#define EXITS 2000 /* the page of code holds 2048 CPUID */

struct floor {
	u64 vmcb_pa;
	void *vmcb;
	u64 gprs[14];
};

u64 floor_bare(struct floor *f, u64 count);
u64 floor_gprs(struct floor *f, u64 count);

static void put(void *vmcb, unsigned int offset, u64 value, unsigned int size)
{
	memcpy(vmcb + offset, &value, size);
}

static void segment(void *vmcb, unsigned int offset, u16 attributes, u64 base)
{
	put(vmcb, offset + 2, attributes, 2);
	put(vmcb, offset + 4, 0xffff, 4);
	put(vmcb, offset + 8, base, 8);
}

/* Real mode without nested paging, code from offset 0 of `code`. */
static void prepare(void *vmcb, u64 code)
{
	put(vmcb, 0x00c, 1 << 18, 4);		/* intercept CPUID */
	put(vmcb, 0x010, 1, 4);			/* intercept VMRUN, as the processor asks for */
	put(vmcb, 0x058, 1, 4);			/* ASID */
	segment(vmcb, 0x400, 0x93, 0);		/* ES */
	segment(vmcb, 0x410, 0x9b, code);	/* CS */
	segment(vmcb, 0x420, 0x93, 0);		/* SS */
	segment(vmcb, 0x430, 0x93, 0);		/* DS */
	put(vmcb, 0x4d0, EFER_SVME, 8);
	put(vmcb, 0x558, 0x10, 8);		/* CR0.ET */
	put(vmcb, 0x560, 0x400, 8);		/* DR7 */
	put(vmcb, 0x568, 0xffff0ff0, 8);	/* DR6 */
	put(vmcb, 0x570, 2, 8);			/* RFLAGS */
}

static u64 measure(struct floor *f, u64 (*run)(struct floor *f, u64 count))
{
	u64 ticks;

	put(f->vmcb, 0x578, 0, 8);
	ticks = run(f, EXITS);
	if (*(u64 *)(f->vmcb + 0x070) != 0x72 || *(u64 *)(f->vmcb + 0x578) != 2 * EXITS)
		return 0;
	return ticks;
}

static int __init floor_init(void)
{
	void *code = (void *)__get_free_page(GFP_KERNEL | GFP_DMA32);
	void *save = (void *)get_zeroed_page(GFP_KERNEL);
	struct floor f = { .vmcb = (void *)get_zeroed_page(GFP_KERNEL) };
	u64 efer, hsave, bare, gprs;
	unsigned long flags;

	if (!code || !save || !f.vmcb || !boot_cpu_has(X86_FEATURE_SVM))
		goto out;
	for (int i = 0; i < PAGE_SIZE; i += 2)
		memcpy(code + i, "\x0f\xa2", 2);
	f.vmcb_pa = virt_to_phys(f.vmcb);
	prepare(f.vmcb, virt_to_phys(code));

	local_irq_save(flags);
	rdmsrq(MSR_EFER, efer);
	rdmsrq(MSR_VM_HSAVE_PA, hsave);
	wrmsrq(MSR_EFER, efer | EFER_SVME);
	wrmsrq(MSR_VM_HSAVE_PA, virt_to_phys(save));
	bare = measure(&f, floor_bare);
	gprs = measure(&f, floor_gprs);
	wrmsrq(MSR_VM_HSAVE_PA, hsave);
	wrmsrq(MSR_EFER, efer);
	local_irq_restore(flags);
	pr_info("bare %llu gprs %llu exits %u\n", bare, gprs, EXITS);
out:
	free_page((unsigned long)code);
	free_page((unsigned long)save);
	free_page((unsigned long)f.vmcb);
	return -ENODEV;
}
module_init(floor_init);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Cost of a bare world switch, for rvmm's scoreboard");
