/* SPDX-License-Identifier: Apache-2.0
 * Stamp cells: what is filled is read back, a damaged cell is none, the checksum is zlib's.
 */
#include <emu/stamp.h>

#include "check.h"

int main(void)
{
	struct emu_stamp stamp = { .work_request = 3, .offset = 4096, .writer = 1, .ino = 2, .layout = 4, .ns = 5 }, got;
	static unsigned char buffer[1000];
	const uint64_t kin[] = { 7, 2 };
	uint64_t found[10];
	uint32_t crc;

	memset(buffer, 0xee, sizeof(buffer));
	emu_stamp_fill(buffer, 64 * 10 + 20, &stamp);
	for (int i = 0; i < 10; i++) {
		CHECK(emu_stamp_read(buffer + 64 * i, &got));
		CHECK_EQ(got.offset, 4096 + 64 * i);
		CHECK_EQ(got.work_request, 3);
		CHECK_EQ(got.writer, 1);
		CHECK_EQ(got.ino, 2);
		CHECK_EQ(got.layout, 4);
		CHECK_EQ(got.ns, 5);
	}
	CHECK_EQ(memcmp(buffer + 640, "EMUSTAMP", 8), 0); /* a last piece is a cell's beginning */
	CHECK(!emu_stamp_read(buffer + 640, &got));
	CHECK_EQ(buffer[660], 0xee);
	memcpy(&crc, buffer + 40, 4);
	CHECK_EQ(crc, 0xafa3b701u); /* zlib.crc32 of these 40 bytes */
	CHECK_EQ(emu_stamp_foreign(buffer, 10, 2, 4, NULL, 0, found), 0);
	CHECK_EQ(emu_stamp_foreign(buffer, 10, 2, 5, NULL, 0, found), 10); /* older than the block is the file's */
	CHECK_EQ(emu_stamp_foreign(buffer, 10, 3, 0, kin, 1, found), 10);
	CHECK_EQ(found[9], 9);
	CHECK_EQ(emu_stamp_foreign(buffer, 10, 3, 0, kin, 2, found), 0);
	CHECK_EQ(emu_stamp_foreign(buffer, 10, 2 + (1ull << 32), 0, NULL, 0, found), 10);
	CHECK_EQ(emu_stamp_in_place(buffer, 11, 2, 4096), 10); /* the eleventh is none */
	CHECK_EQ(emu_stamp_in_place(buffer, 10, 3, 4096), 0);
	CHECK_EQ(emu_stamp_in_place(buffer + 64, 9, 2, 4096), 0);
	for (int i = 0; i < 64; i++) {
		buffer[i] ^= 1;
		CHECK(!emu_stamp_read(buffer, &got));
		buffer[i] ^= 1;
	}
	return 0;
}
