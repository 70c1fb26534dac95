/* What the extension emu.engine._engine is compiled against. */
#include <emu/engine.h>
