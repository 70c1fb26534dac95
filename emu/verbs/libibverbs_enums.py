"""pyverbs' newer name of its numbers."""

from emu.verbs.enums import *  # noqa: F403 - the same names
