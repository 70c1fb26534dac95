/* SPDX-License-Identifier: Apache-2.0
 *
 * stamp.h. The first 32 bytes of all cells of one fill are the same, so their checksum is computed once and each
 * cell adds its own offset: a fill costs little more than the store.
 */
#include <stddef.h>
#include <string.h>

#include <emu/stamp.h>

struct cell {
	uint8_t magic[8];
	uint32_t writer, ino;
	uint64_t work_request;
	uint32_t layout, ns;
	uint64_t offset;
	uint32_t crc[6];
};

_Static_assert(sizeof(struct cell) == EMU_STAMP_CELL, "format");
_Static_assert(offsetof(struct cell, crc) == 40, "format");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "cells are little endian, and written as they lie in memory");

static const uint8_t magic[8] = { 'E', 'M', 'U', 'S', 'T', 'A', 'M', 'P' };

/* CRC-32, reflected, polynomial 0xedb88320, four bits at a time. */
static const uint32_t nibble[16] = {
	0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
	0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
};

static uint32_t crc_more(uint32_t crc, const void *data, size_t bytes)
{
	const uint8_t *p = data;

	while (bytes--) {
		crc ^= *p++;
		crc = crc >> 4 ^ nibble[crc & 15];
		crc = crc >> 4 ^ nibble[crc & 15];
	}
	return crc;
}

static void seal(struct cell *c, uint32_t crc)
{
	for (int i = 0; i < 6; i++)
		c->crc[i] = crc;
}

void emu_stamp_fill(void *to, uint64_t bytes, const struct emu_stamp *stamp)
{
	struct cell c = {
		.writer = stamp->writer, .ino = stamp->ino, .work_request = stamp->work_request,
		.layout = stamp->layout, .ns = stamp->ns, .offset = stamp->offset,
	};
	uint8_t *p = to;
	uint32_t prefix;

	memcpy(c.magic, magic, sizeof(magic));
	prefix = crc_more(~0u, &c, offsetof(struct cell, offset));
	for (; bytes; c.offset += sizeof(c)) {
		size_t n = bytes < sizeof(c) ? bytes : sizeof(c);

		seal(&c, ~crc_more(prefix, &c.offset, sizeof(c.offset)));
		memcpy(p, &c, n);
		p += n;
		bytes -= n;
	}
}

int emu_stamp_read(const void *cell, struct emu_stamp *out)
{
	struct cell c;
	uint32_t crc;

	memcpy(&c, cell, sizeof(c));
	if (memcmp(c.magic, magic, sizeof(magic)))
		return 0;
	crc = ~crc_more(~0u, &c, offsetof(struct cell, crc));
	for (int i = 0; i < 6; i++)
		if (c.crc[i] != crc)
			return 0;
	*out = (struct emu_stamp){ c.work_request, c.offset, c.writer, c.ino, c.layout, c.ns };
	return 1;
}

static int among(uint64_t ino, const uint64_t *inos, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++)
		if (inos[i] == ino)
			return 1;
	return 0;
}

uint64_t emu_stamp_foreign(const void *memory, uint64_t cells, uint64_t ino, uint64_t since, const uint64_t *kin,
			   uint64_t kins, uint64_t *found)
{
	const uint8_t *p = memory;
	struct emu_stamp stamp;
	uint64_t count = 0;

	for (uint64_t i = 0; i < cells; i++, p += EMU_STAMP_CELL)
		if (emu_stamp_read(p, &stamp) && (stamp.ino != ino || stamp.layout < since) && !among(stamp.ino, kin, kins))
			found[count++] = i;
	return count;
}

uint64_t emu_stamp_in_place(const void *memory, uint64_t cells, uint64_t ino, uint64_t offset)
{
	const uint8_t *p = memory;
	struct emu_stamp stamp;
	uint64_t count = 0;

	for (uint64_t i = 0; i < cells; i++, p += EMU_STAMP_CELL, offset += EMU_STAMP_CELL)
		count += emu_stamp_read(p, &stamp) && stamp.ino == ino && stamp.offset == offset;
	return count;
}
