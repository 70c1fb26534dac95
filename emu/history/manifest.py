"""manifest.json: what a finished run folder holds, by length and SHA-256, so that a tampered or torn one is known.

    {"schema": 1, "files": {"events.jsonl": {"bytes": N, "sha256": "..."}, "journals/peer.jrnl": {...}, ...}}

It is written last, by whoever made the folder, and names every file below it but itself.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
PIECE = 1 << 20


def digest(path: Path) -> dict[str, Any]:
    """{"bytes", "sha256"} of one file. Raises OSError."""
    total, seen = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            total.update(piece)
            seen += len(piece)
    return {"bytes": seen, "sha256": total.hexdigest()}


def files_below(folder: Path) -> dict[str, Path]:
    """Name as in the manifest -> path, in order of the names."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: found[name] for name in sorted(found) if name != MANIFEST}


def write_manifest(folder: str | Path) -> None:
    """Of all that lies in the folder now. Raises OSError."""
    files = {name: digest(path) for name, path in files_below(Path(folder)).items()}
    text = json.dumps({"schema": 1, "files": files}, indent=1)
    (Path(folder) / MANIFEST).write_text(text + "\n", encoding="utf-8")


def differences(folder: str | Path) -> list[str]:
    """Sentences about files that are not as the manifest says: gone, new, changed. Raises OSError, ValueError for no manifest."""
    text = (Path(folder) / MANIFEST).read_text("utf-8")
    said = json.loads(text)
    if not isinstance(said, dict) or said.get("schema") != 1 or not isinstance(said.get("files"), dict):
        raise ValueError(f"{MANIFEST}: this is no manifest of schema 1")
    files: dict[str, Any] = said["files"]
    there = files_below(Path(folder))
    found = [f"{name} is missing" for name in files if name not in there]
    found += [f"{name} is not in {MANIFEST}" for name in there if name not in files]
    found += [f"{name} was changed" for name in there if name in files and digest(there[name]) != files[name]]
    return found
