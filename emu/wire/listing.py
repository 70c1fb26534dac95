"""All of `fs_ls`: the broker answers in pages, since one answer over all files of a node would keep everybody waiting."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def listing(ask: Callable[..., dict[str, Any]], path: str = "") -> dict[str, Any]:
    """{files, devices, mounts} from as many pages as it takes. ask(**fields) -> the result of one fs_ls.

    Files that come or go meanwhile are on it or not; every other is on it once.
    """
    found = ask(path=path)
    while behind := found.pop("next"):
        page = ask(path=path, after=behind)
        found["files"] += page["files"]
        found["next"] = page["next"]
    return found


def mount_paths(ask: Callable[..., dict[str, Any]]) -> list[str]:
    """Where the node's devices are mounted, `host` among them."""
    return [str(mount["path"]) for mount in ask(limit=1)["mounts"]]
