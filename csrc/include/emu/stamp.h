/* SPDX-License-Identifier: Apache-2.0
 *
 * The stamp: every 64 bytes that a judged writer stores are a cell that says who stored it and where it was meant to go,
 * so that a cell found anywhere tells by itself whether it belongs there.
 *
 *   offset  0  8s   "EMUSTAMP"
 *           8  u32  writer
 *          12  u32  inode of the intended file
 *          16  u64  work request
 *          24  u32  layout of that file when the memory was registered
 *          28  u32  namespace
 *          32  u64  intended offset in the file, of this cell
 *          40  u32  CRC-32 (the one of zlib) of bytes 0..39, six times
 *
 * Little endian. Writers: clients, through emu_stamp_fill. Readers: emu/history/stamp.py and whoever recounts.
 */
#ifndef EMU_STAMP_H
#define EMU_STAMP_H

#include <stdint.h>

#define EMU_STAMP_CELL 64u

struct emu_stamp {
	uint64_t work_request;
	uint64_t offset; /* of the first byte; each following cell is 64 further on */
	uint32_t writer, ino, layout, ns;
};

/* Fill `bytes` bytes with cells; a last piece shorter than a cell gets the cell's beginning. */
void emu_stamp_fill(void *to, uint64_t bytes, const struct emu_stamp *stamp);
/* Is this a cell, whole and with a good checksum? 1, and *out says what it says, or 0. `cell` need not be aligned. */
int emu_stamp_read(const void *cell, struct emu_stamp *out);

/* Of `cells` cells one behind the other: those that were written under a translation from before the memory became file
 * `ino`'s, in its layout `since`, and by none of its kin (files that it shares blocks with). Their numbers go to found[],
 * which has room for all; how many. */
uint64_t emu_stamp_foreign(const void *memory, uint64_t cells, uint64_t ino, uint64_t since, const uint64_t *kin,
			   uint64_t kins, uint64_t *found);
/* Of `cells` cells one behind the other, the first meant for `offset` of file `ino`: how many are there, whole. */
uint64_t emu_stamp_in_place(const void *memory, uint64_t cells, uint64_t ino, uint64_t offset);

#endif
