"""What file operations do when one runs behind the other, and whether what came of concurrent ones is what some order gives (S10).

An operation is (name, fields of its request without the path).
"""

from __future__ import annotations

import itertools

START = b"S" * 5000
OPERATIONS = (
    ("fs_truncate", {"size": 50}),
    ("fs_truncate", {"size": 4000}),
    ("fs_truncate", {"size": 6000}),
    ("fs_truncate", {"size": 9000}),
    ("fs_truncate", {"size": 4096}),
    ("fs_truncate", {"size": 0}),
    ("fs_punch", {"offset": 0, "length": 5000}),
    ("fs_punch", {"offset": 100, "length": 4500}),
    ("fs_punch", {"offset": 3000, "length": 6000}),
    ("fs_punch", {"offset": 4096, "length": 4096}),
    ("fs_write", {"offset": 5000, "data": b"W" * 3000}),
    ("fs_write", {"offset": 10, "data": b"V" * 100}),
    ("fs_write", {"offset": 8200, "data": b"Z" * 10}),
)


def serial(operations, content=START):
    """The file's bytes when these have run one behind the other."""
    file = bytearray(content)
    for name, fields in operations:
        if name == "fs_truncate":
            size = fields["size"]
            file = file[:size] + bytes(max(0, size - len(file)))
        elif name == "fs_punch":
            lo, hi = fields["offset"], min(len(file), fields["offset"] + fields["length"])
            file[lo:hi] = bytes(max(0, hi - lo))
        else:
            lo, data = fields["offset"], fields["data"]
            file += bytes(max(0, lo + len(data) - len(file)))
            file[lo : lo + len(data)] = data
    return bytes(file)


def orders(operations, earlier=frozenset()):
    """All that serial orders give. earlier: (one, other) by place, where one was answered before other was asked."""
    for order in itertools.permutations(range(len(operations))):
        if not any((after, before) in earlier for before, after in itertools.combinations(order, 2)):
            yield serial([operations[at] for at in order])


def differs(got, operations, earlier=frozenset()):
    """A sentence about what no order gives, or nothing."""
    wanted = list(orders(operations, earlier))
    if got in wanted:
        return ""
    short = [(name, *(v if k != "data" else len(v) for k, v in f.items())) for name, f in operations]
    runs = [(chr(byte), len(list(same))) for byte, same in itertools.groupby(got)]
    return f"{short} left {runs}, which none of {len(wanted)} orders gives"
