/* SPDX-License-Identifier: Apache-2.0
 * Stamp cells: what is filled is read back, a damaged cell is none, the checksum is zlib's.
 */
#include <emu/stamp.h>

#include "check.h"

int main(void)
{
	struct emu_stamp stamp = { .work_request = 3, .offset = 4096, .writer = 1, .ino = 2, .layout = 4, .ns = 5 }, got;
	static unsigned char buffer[1000];
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
	for (int i = 0; i < 64; i++) {
		buffer[i] ^= 1;
		CHECK(!emu_stamp_read(buffer, &got));
		buffer[i] ^= 1;
	}
	return 0;
}
