"""Turn C headers into what cffi's parser reads, so that the declarations Python sees are the header's own.

usage: cdef.py HEADER... > OUT

Comments, assertions, includes, guards and function-like macros go; integer macros stay. The extensions are compiled in
cffi's API mode, so the compiler checks the result against the same headers once more.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_ASSERT = re.compile(r"_Static_assert\(.*?\);\n", re.DOTALL)
_INTEGER = re.compile(r"#define\s+\w+\s+(?:0x)?[0-9a-fA-F]+[uUlL]*\s*$")


def declarations(header: str) -> str:
    """The C declarations of one header, as cffi.FFI.cdef takes them."""
    text = _ASSERT.sub("", _COMMENT.sub("", header).replace("\\\n", " "))
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#") or _INTEGER.match(line)]
    return "\n".join(line for line in lines if line.strip())


if __name__ == "__main__":
    print("\n".join(declarations(Path(name).read_text(encoding="utf-8")) for name in sys.argv[1:]))
