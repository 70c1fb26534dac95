"""Random scripts of every protocol, for as long as one likes: `make fuzz` (ten minutes).

    python tests/core/fuzz.py [--seconds N] [--steps N] [--seed FIRST] [--protocols NAME ...] [--mixed]

Each seed is a script of each protocol alone, and one of all of them at once; behind every step the laws (laws.py), now and then that an undone step
leaves no trace and comes out the same again, and at the end that everything comes to rest. Exit 1 and the seed of whatever is found.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import random
import sys
import time
import traceback
from pathlib import Path


def sibling(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


laws, scripts = sibling("laws"), sibling("script")
MIXED = "all at once"


def play(seed, names, steps):
    """What is broken in this script, or None."""
    policy = ("freed-first", "fifo")[seed % 2]
    script, other = scripts.Script(seed, policy, names), random.Random(seed)
    script.core.committed()
    for step in range(steps):
        event = script.next()
        if other.random() < 0.1 and (sentence := _undone(script.core, event)):
            return f"step {step}, {event}: {sentence}"
        script.feed(event)
        script.core.committed()
        if sentence := laws.broken(script):
            return f"step {step}, {event}: {sentence}"
        if step % 50 == 0 and laws.indexes(script.core.books) != laws.rebuilt(script.core.books):
            return f"step {step}, {event}: the indexes are not what the rows say"
    return laws.unrest(script)


def _undone(core, event):
    before = core.snapshot()
    first = core.step(event)
    core.undo()
    if core.snapshot() != before:
        return "undone, it leaves a trace"
    again = core.step(event)
    core.undo()
    return None if first == again else f"twice the same, and not the same: {first}, {again}"


def tried(seed, names, steps):
    """As play; an exception is a finding, too."""
    try:
        return play(seed, names, steps)
    except Exception:  # noqa: BLE001 - whatever it is, its seed is told
        return traceback.format_exc()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--protocols", nargs="+", default=[MIXED, *scripts.NAMES])
    asked = parser.parse_args()
    until, played, found = time.monotonic() + asked.seconds, 0, set()
    for seed in itertools.count(asked.seed):
        for name in asked.protocols:
            sentence = tried(seed, scripts.NAMES if name == MIXED else (name,), asked.steps)
            played += 1
            if sentence and sentence[-60:] not in found:
                found.add(sentence[-60:])
                print(f"seed {seed}, {name}: {sentence}", flush=True)
        if time.monotonic() > until:
            print(
                f"{played} scripts of {asked.steps} steps, seeds {asked.seed} to {seed}: {len(found)} findings"
            )
            return 1 if found else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
