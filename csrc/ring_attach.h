/* SPDX-License-Identifier: Apache-2.0
 *
 * The open calls of ring.h over memory that is mapped already, which stays the caller's. For tests: a race detector sees both
 * ends of a ring only when they use one mapping.
 */
#ifndef EMU_RING_ATTACH_H
#define EMU_RING_ATTACH_H

#include <emu/ring.h>

int emu_ring_ctx_attach(struct emu_ctx_page *page, struct emu_bell_page *bell, struct emu_ring_ctx **out);
int emu_ring_qp_attach(struct emu_ring_ctx *ctx, struct emu_qp_seg *seg, size_t bytes, struct emu_ring_qp **out);
int emu_ring_cq_attach(struct emu_cq_seg *seg, size_t bytes, struct emu_ring_cq **out);

#endif
