/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The tracepoints of the module: /sys/kernel/tracing/events/rvmm. trace.rs declares them to Rust and says
 * what each means; the order and the types of arguments here are those that it calls with.
 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM rvmm

#if !defined(RVMM_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define RVMM_TRACE_H

#include <linux/tracepoint.h>

/* Numbers of the ABI, as user space reads them in kvm_run; abi/run.rs has the same. */
#define RVMM_USER_EXITS						\
	{ 2, "io" }, { 5, "hlt" }, { 6, "mmio" },		\
	{ 7, "irq window" }, { 8, "shutdown" },			\
	{ 9, "fail entry" }, { 10, "intr" },			\
	{ 17, "internal error" }, { 24, "system event" }

/* How the extensions of both vendors number what they inject. */
#define RVMM_EVENT_KINDS					\
	{ 0, "interrupt" }, { 2, "nmi" }, { 3, "exception" },	\
	{ 4, "software interrupt" }, { 5, "icebp" },		\
	{ 6, "software exception" }

TRACE_EVENT(rvmm_entry,
	TP_PROTO(u32 vcpu, u64 rip),
	TP_ARGS(vcpu, rip),
	TP_STRUCT__entry(
		__field(u32, vcpu)
		__field(u64, rip)
	),
	TP_fast_assign(
		__entry->vcpu = vcpu;
		__entry->rip = rip;
	),
	TP_printk("vcpu %u rip %#llx", __entry->vcpu, __entry->rip)
);

TRACE_EVENT(rvmm_exit,
	TP_PROTO(u32 vcpu, u64 rip, u64 reason, u64 info1, u64 info2),
	TP_ARGS(vcpu, rip, reason, info1, info2),
	TP_STRUCT__entry(
		__field(u32, vcpu)
		__field(u64, rip)
		__field(u64, reason)
		__field(u64, info1)
		__field(u64, info2)
	),
	TP_fast_assign(
		__entry->vcpu = vcpu;
		__entry->rip = rip;
		__entry->reason = reason;
		__entry->info1 = info1;
		__entry->info2 = info2;
	),
	TP_printk("vcpu %u reason %#llx rip %#llx info %#llx %#llx", __entry->vcpu, __entry->reason,
		__entry->rip, __entry->info1, __entry->info2)
);

TRACE_EVENT(rvmm_user_exit,
	TP_PROTO(u32 reason),
	TP_ARGS(reason),
	TP_STRUCT__entry(
		__field(u32, reason)
	),
	TP_fast_assign(
		__entry->reason = reason;
	),
	TP_printk("reason %u (%s)", __entry->reason,
		__print_symbolic(__entry->reason, RVMM_USER_EXITS))
);

TRACE_EVENT(rvmm_inject,
	TP_PROTO(u32 vcpu, u32 kind, u32 vector, u32 error_code),
	TP_ARGS(vcpu, kind, vector, error_code),
	TP_STRUCT__entry(
		__field(u32, vcpu)
		__field(u32, kind)
		__field(u32, vector)
		__field(u32, error_code)
	),
	TP_fast_assign(
		__entry->vcpu = vcpu;
		__entry->kind = kind;
		__entry->vector = vector;
		__entry->error_code = error_code;
	),
	TP_printk("vcpu %u %s vector %#x error code %#x", __entry->vcpu,
		__print_symbolic(__entry->kind, RVMM_EVENT_KINDS), __entry->vector, __entry->error_code)
);

TRACE_EVENT(rvmm_halt,
	TP_PROTO(u32 vcpu, u64 ticks, bool polled),
	TP_ARGS(vcpu, ticks, polled),
	TP_STRUCT__entry(
		__field(u32, vcpu)
		__field(u64, ticks)
		__field(bool, polled)
	),
	TP_fast_assign(
		__entry->vcpu = vcpu;
		__entry->ticks = ticks;
		__entry->polled = polled;
	),
	TP_printk("vcpu %u for %llu ticks, %s", __entry->vcpu, __entry->ticks,
		__entry->polled ? "polled" : "slept")
);

TRACE_EVENT(rvmm_kick,
	TP_PROTO(u32 vcpu, bool in_guest),
	TP_ARGS(vcpu, in_guest),
	TP_STRUCT__entry(
		__field(u32, vcpu)
		__field(bool, in_guest)
	),
	TP_fast_assign(
		__entry->vcpu = vcpu;
		__entry->in_guest = in_guest;
	),
	TP_printk("vcpu %u %s", __entry->vcpu, __entry->in_guest ? "interrupted" : "woken")
);

DECLARE_EVENT_CLASS(rvmm_access,
	TP_PROTO(u32 vcpu, u64 address, u32 bytes, bool is_write, u64 value),
	TP_ARGS(vcpu, address, bytes, is_write, value),
	TP_STRUCT__entry(
		__field(u32, vcpu)
		__field(u64, address)
		__field(u32, bytes)
		__field(bool, is_write)
		__field(u64, value)
	),
	TP_fast_assign(
		__entry->vcpu = vcpu;
		__entry->address = address;
		__entry->bytes = bytes;
		__entry->is_write = is_write;
		__entry->value = value;
	),
	TP_printk("vcpu %u %s %#llx bytes %u value %#llx", __entry->vcpu,
		__entry->is_write ? "write" : "read", __entry->address, __entry->bytes, __entry->value)
);

DEFINE_EVENT(rvmm_access, rvmm_port,
	TP_PROTO(u32 vcpu, u64 address, u32 bytes, bool is_write, u64 value),
	TP_ARGS(vcpu, address, bytes, is_write, value)
);

DEFINE_EVENT(rvmm_access, rvmm_mmio,
	TP_PROTO(u32 vcpu, u64 address, u32 bytes, bool is_write, u64 value),
	TP_ARGS(vcpu, address, bytes, is_write, value)
);

TRACE_EVENT(rvmm_msr,
	TP_PROTO(u32 vcpu, u32 index, bool is_write, u64 value, bool refused),
	TP_ARGS(vcpu, index, is_write, value, refused),
	TP_STRUCT__entry(
		__field(u32, vcpu)
		__field(u32, index)
		__field(bool, is_write)
		__field(u64, value)
		__field(bool, refused)
	),
	TP_fast_assign(
		__entry->vcpu = vcpu;
		__entry->index = index;
		__entry->is_write = is_write;
		__entry->value = value;
		__entry->refused = refused;
	),
	TP_printk("vcpu %u %s %#x value %#llx%s", __entry->vcpu, __entry->is_write ? "write" : "read",
		__entry->index, __entry->value, __entry->refused ? " refused" : "")
);

TRACE_EVENT(rvmm_map,
	TP_PROTO(u64 gpa, u64 hpa, u64 pages, bool writable),
	TP_ARGS(gpa, hpa, pages, writable),
	TP_STRUCT__entry(
		__field(u64, gpa)
		__field(u64, hpa)
		__field(u64, pages)
		__field(bool, writable)
	),
	TP_fast_assign(
		__entry->gpa = gpa;
		__entry->hpa = hpa;
		__entry->pages = pages;
		__entry->writable = writable;
	),
	TP_printk("gpa %#llx hpa %#llx pages %llu%s", __entry->gpa, __entry->hpa, __entry->pages,
		__entry->writable ? " writable" : "")
);

TRACE_EVENT(rvmm_invalidate,
	TP_PROTO(u64 start, u64 end),
	TP_ARGS(start, end),
	TP_STRUCT__entry(
		__field(u64, start)
		__field(u64, end)
	),
	TP_fast_assign(
		__entry->start = start;
		__entry->end = end;
	),
	TP_printk("hva %#llx-%#llx", __entry->start, __entry->end)
);

TRACE_EVENT(rvmm_msi,
	TP_PROTO(u64 address, u32 data),
	TP_ARGS(address, data),
	TP_STRUCT__entry(
		__field(u64, address)
		__field(u32, data)
	),
	TP_fast_assign(
		__entry->address = address;
		__entry->data = data;
	),
	TP_printk("address %#llx data %#x", __entry->address, __entry->data)
);

TRACE_EVENT(rvmm_request_begin,
	TP_PROTO(u32 slot, u32 queue, u32 buffer, u32 kind, u64 bytes),
	TP_ARGS(slot, queue, buffer, kind, bytes),
	TP_STRUCT__entry(
		__field(u32, slot)
		__field(u32, queue)
		__field(u32, buffer)
		__field(u32, kind)
		__field(u64, bytes)
	),
	TP_fast_assign(
		__entry->slot = slot;
		__entry->queue = queue;
		__entry->buffer = buffer;
		__entry->kind = kind;
		__entry->bytes = bytes;
	),
	TP_printk("slot %u queue %u buffer %u kind %u bytes %llu", __entry->slot, __entry->queue,
		__entry->buffer, __entry->kind, __entry->bytes)
);

TRACE_EVENT(rvmm_request_end,
	TP_PROTO(u32 slot, u32 queue, u32 buffer, u32 status),
	TP_ARGS(slot, queue, buffer, status),
	TP_STRUCT__entry(
		__field(u32, slot)
		__field(u32, queue)
		__field(u32, buffer)
		__field(u32, status)
	),
	TP_fast_assign(
		__entry->slot = slot;
		__entry->queue = queue;
		__entry->buffer = buffer;
		__entry->status = status;
	),
	TP_printk("slot %u queue %u buffer %u status %u", __entry->slot, __entry->queue, __entry->buffer,
		__entry->status)
);

#endif /* RVMM_TRACE_H */

/* Read once more for each thing that the kernel makes of these lines. Kbuild has host/ in the include path. */
#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace
#include <trace/define_trace.h>
