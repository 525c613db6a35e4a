/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The world switch of SVM.
 *
 * VMRUN and #VMEXIT switch RAX, RSP, RIP, RFLAGS, the control registers and CS, SS, DS, ES;
 * VMLOAD and VMSAVE switch FS, GS, TR, LDTR and the system call MSRs; everything else is done
 * here. APM, "VMRUN and VMEXIT Instructions".
 */
#include <linux/linkage.h>
#include <asm/asm.h>
#include <asm/alternative.h>
#include <asm/cpufeatures.h>
#include <asm/msr-index.h>
#include <asm/nospec-branch.h>
#include <asm/segment.h>

#include "../host/enter.h"

/* Offset of EXITCODE in the VMCB, and its value where VMRUN was refused. */
#define VMCB_EXITCODE 0x70
#define VMEXIT_INVALID -1

	.section .noinstr.text, "ax"

/*
 * void rvmm_svm_enter(u64 vmcb_hpa, u64 gprs[16], u64 host_vmcb_hpa)
 *
 * Interrupts are off, EFER.SVME is set, VM_HSAVE_PA is valid, and host_vmcb_hpa names a page that
 * VMSAVE filled on this CPU since the window was opened. gprs is numbered as instructions encode
 * registers; RAX (0) and RSP (4) of the guest live in the VMCB and are left alone here.
 *
 * GIF is cleared over the switch, so that nothing arrives while half of each world is loaded. RFLAGS.IF
 * is set at VMRUN: with V_INTR_MASKING it decides whether a physical interrupt ends the guest.
 */
SYM_FUNC_START(rvmm_svm_enter)
	push_callee_saved
	push	%rsi
	push	%rdx
	mov	%rdi, %rax

	load_gprs rsi, rcx, rdx, rbx, rbp, rdi, r8, r9, r10, r11, r12, r13, r14, r15
	load_gprs rsi, rsi

	clgi
	sti
.Lload:
	vmload	%rax
	clear_cpu_buffers
	vmrun	%rax
	vmsave	%rax
.Lhost:
	pop	%rax
	vmload	%rax
	cli
	stgi

	pop	%rax
	save_gprs rax, rcx, rdx, rbx, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15

	/* The guest's return predictions must not be used by the host. */
	FILL_RETURN_BUFFER %rax, RSB_CLEAR_LOOPS, X86_FEATURE_RSB_VMEXIT
	/* Nor what it trained for returns: retbleed and return stack overflow. */
	CALL_UNTRAIN_RET
	ibpb_on_exit

	/* Nor its register values by speculation past this point. */
	xor	%eax, %eax
	clear_scratch

	pop_callee_saved
	RET

	/*
	 * The processor does not take the VMCB, whose address RAX still has. VMLOAD is the first to say so: from it
	 * until the host's is back, GS is the guest's, and no fault could be handled.
	 */
.Lrefused:
	add	page_offset_base(%rip), %rax
	movq	$VMEXIT_INVALID, VMCB_EXITCODE(%rax)
	jmp	.Lhost

	_ASM_EXTABLE(.Lload, .Lrefused)
SYM_FUNC_END(rvmm_svm_enter)
