// SPDX-License-Identifier: GPL-2.0
/*
 * Makes the tracepoints of trace.h, and for each the function that trace.rs calls when it is on.
 */
#define CREATE_TRACE_POINTS
#define CREATE_RUST_TRACE_POINTS
#include "trace.h"
