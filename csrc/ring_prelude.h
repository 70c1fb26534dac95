/* What the extension emu.engine._ring is compiled against. */
#include <emu/ring.h>
#include <emu/rules.h>
#include <emu/link.h>
#include <emu/stamp.h>
