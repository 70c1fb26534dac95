"""Rooms: who may import whom, and what the pure rooms must not contain. By ast: nothing is imported or run.

DESIGN's table, "Rooms, and who may know whom": arrows point one way. `core` and `protocols` do no I/O, read no clock, draw no random
number, keep no state in modules, and never iterate over a set.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# room -> rooms of emu that it may import. A room may import itself.
ROOMS = {
    "core": (),
    "protocols": ("core",),
    "wire": ("core",),
    "history": ("core",),
    "engine": (),
    "host": (),
    "broker": ("core", "protocols", "wire", "history", "engine", "host"),
    "verbs": ("wire", "engine", "host"),
    "check": ("core", "protocols", "history", "engine"),
    "lab": ("verbs", "broker", "check", "wire", "history", "engine", "host", "clients"),
    "report": ("history",),
    "cli": (
        "core",
        "protocols",
        "wire",
        "history",
        "engine",
        "host",
        "broker",
        "verbs",
        "check",
        "lab",
        "report",
        "clients",
    ),
    "clients": ("verbs", "history", "engine", "host"),  # formats of stamps and journals; how long they wait
}

# Single modules that may know more, each with its reason.
MORE = {
    "emu/verbs/node.py": ("broker",),  # the embedded default starts a broker
    "emu/wire/client.py": ("host",),  # its patience is scaled as every timer is
    "emu/lab/forcing.py": (
        "core",
        "protocols",
    ),  # a story's steps are the core's events and effects, in order
}

# What a pure room may import of the standard library.
PURE = frozenset(
    [
        "__future__",
        "bisect",
        "collections",
        "collections.abc",
        "dataclasses",
        "enum",
        "errno",
        "heapq",
        "itertools",
        "operator",
        "re",
        "types",
        "typing",
    ]
)

# One module looks outside: it asks importlib.metadata which protocols are installed, so that core and protocols need not.
OUTSIDE = {"emu/protocols/registry.py": frozenset({"importlib"})}

CALLS = frozenset(
    [
        "open",
        "id",
        "hash",
        "input",
        "eval",
        "exec",
        "compile",
        "print",
        "globals",
        "vars",
        "setattr",
        "delattr",
        "__import__",
        "breakpoint",
    ]
)
METHODS = frozenset(
    [
        "append",
        "extend",
        "insert",
        "add",
        "update",
        "setdefault",
        "pop",
        "popitem",
        "remove",
        "discard",
        "clear",
        "appendleft",
        "__setitem__",
    ]
)


def files(room: str) -> list[Path]:
    top = ROOT / "clients" if room == "clients" else ROOT / "emu" / room
    return sorted(top.rglob("*.py"))


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), label(path))


def imports(module: ast.Module) -> list[tuple[int, str]]:
    """(line, dotted name) of all imports; `from emu import x` counts as emu.x."""
    found = []
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: say the whole name instead of a relative import"
            names = (
                [f"emu.{alias.name}" for alias in node.names] if node.module == "emu" else [node.module or ""]
            )
            found += [(node.lineno, name) for name in names]
    return found


def test_every_folder_of_the_package_is_a_room():
    folders = {path.name for path in (ROOT / "emu").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders | {"clients"} == set(ROOMS), "add the folder to DESIGN's table and to ROOMS"


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_arrows_point_one_way(room):
    for path in files(room):
        allowed = {room, *ROOMS[room], *MORE.get(label(path), ())}
        for line, name in imports(tree(path)):
            parts = name.split(".")
            if parts[0] == "emu" and len(parts) > 1 and parts[1] != "__version__":
                assert parts[1] in allowed, f"{label(path)}:{line}: {room} may not import emu.{parts[1]}"


def test_rooms_make_no_circle():
    order: list[str] = []
    left = {room: set(may) for room, may in ROOMS.items()}
    while left:
        ready = sorted(room for room, may in left.items() if may <= set(order))
        assert ready, f"a circle among {sorted(left)}"
        order += ready
        left = {room: may for room, may in left.items() if room not in ready}
    assert order[-1] == "cli"


def pure_files() -> list[Path]:
    return [*files("core"), *files("protocols")]


@pytest.mark.parametrize("path", pure_files(), ids=label)
def test_pure_rooms_import_only_the_pure_part_of_the_library(path):
    allowed = PURE | OUTSIDE.get(label(path), frozenset())
    for line, name in imports(tree(path)):
        assert name.split(".")[0] == "emu" or name in allowed, f"{label(path)}:{line}: {name} is not pure"


@pytest.mark.parametrize("path", pure_files(), ids=label)
def test_pure_rooms_are_pure(path):
    assert problems(tree(path)) == []


def problems(module: ast.Module) -> list[str]:
    """What a pure module must not contain, as sentences."""
    found = []
    tables = module_tables(module)
    for node in ast.walk(module):
        if isinstance(node, ast.Global | ast.Nonlocal):
            found.append(f"line {node.lineno}: global or nonlocal state")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
            found.append(f"line {node.lineno}: {node.func.id}()")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            target = node.func.value
            if isinstance(target, ast.Name) and target.id in tables and node.func.attr in METHODS:
                found.append(f"line {node.lineno}: {target.id}.{node.func.attr}() changes a module's table")
        found += [
            f"line {node.lineno}: {name}[...] changes a module's table"
            for name in changed(node)
            if name in tables
        ]
        found += [f"line {node.lineno}: iterates over a set" for it in iterated(node) if is_set(it)]
        if isinstance(node, ast.FunctionDef):
            found += [
                f"line {node.lineno}: @{ast.unparse(d)}"
                for d in node.decorator_list
                if "cache" in ast.unparse(d)
            ]
            defaults = [*node.args.defaults, *(d for d in node.args.kw_defaults if d is not None)]
            found += [
                f"line {node.lineno}: a mutable default"
                for d in defaults
                if isinstance(d, ast.List | ast.Dict | ast.Set)
            ]
    for name in tables:
        if name != name.upper() and name != "__all__":
            found.append(f"module state {name}: a table that never changes has a name in capitals")
    return found


def module_tables(module: ast.Module) -> list[str]:
    """Names bound in the module to something that could be changed."""
    mutable = ast.Dict | ast.List | ast.Set | ast.DictComp | ast.ListComp | ast.SetComp
    names = []
    for node in module.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, mutable):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [target.id for target in targets if isinstance(target, ast.Name)]
    return names


def changed(node: ast.AST) -> list[str]:
    """Names whose items this node sets or deletes."""
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign | ast.Delete):
        targets = node.targets
    elif isinstance(node, ast.AugAssign | ast.AnnAssign):
        targets = [node.target]
    items = [target.value for target in targets if isinstance(target, ast.Subscript)]
    return [item.id for item in items if isinstance(item, ast.Name)]


def iterated(node: ast.AST) -> list[ast.expr]:
    """Expressions whose order matters to this node."""
    if isinstance(node, ast.For):
        return [node.iter]
    if isinstance(node, ast.ListComp | ast.GeneratorExp | ast.DictComp | ast.SetComp):
        return [part.iter for part in node.generators]
    if (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in {"list", "tuple", "iter", "enumerate"}
    ):
        return node.args[:1]
    return [node.value] if isinstance(node, ast.Starred) else []


def is_set(node: ast.expr) -> bool:
    if isinstance(node, ast.Set | ast.SetComp):
        return True
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr | ast.BitAnd | ast.Sub | ast.BitXor):
        return is_set(node.left) or is_set(node.right)
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in {"set", "frozenset"}
    )


@pytest.mark.parametrize(
    "text",
    [
        "def f():\n    global x",
        "id(3)",
        "hash('a')",
        "open('x')",
        "TABLE = {}\ndef f():\n    TABLE['a'] = 1",
        "TABLE = []\ndef f():\n    TABLE.append(1)",
        "TABLE = {}\ndef f():\n    del TABLE['a']",
        "cache = {}",
        "import functools\n@functools.lru_cache\ndef f(): ...",
        "for x in {1, 2}: ...",
        "[x for x in set(y)]",
        "tuple(frozenset(y) | z)",
        "f(*{1})",
        "def f(x=[]): ...",
    ],
)
def test_the_purity_check_can_fail(text):
    assert problems(ast.parse(text))


def test_sorted_sets_and_tables_are_fine():
    assert problems(ast.parse("TABLE = {'a': 1}\nfor x in sorted({1, 2}): ...\ny = 1 in {1, 2}")) == []
