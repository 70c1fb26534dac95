"""The core's refusals. One root, `Refused`: the caller asked for what cannot be done, and nothing has changed.

`ProtocolBroke` is the other side: the *protocol* broke the contract that every protocol meets; the reclaim fails
with the rule's name, the broker goes on.
"""

from __future__ import annotations

import errno

PREFERRED = {errno.EOPNOTSUPP: "EOPNOTSUPP", errno.EAGAIN: "EAGAIN", errno.EDEADLK: "EDEADLK"}

LONGEST = 64  # characters of a name in a sentence


def errno_name(number: int) -> str:
    """The name by which we call an errno; `errno.errorcode` picks ENOTSUP where the field says EOPNOTSUPP."""
    return PREFERRED.get(number) or errno.errorcode.get(number, f"E{number}")


def shown(name: str) -> str:
    """A name in a sentence, quoted: of one that is too long to be read, the beginning."""
    return repr(name if len(name) <= LONGEST else f"{name[:LONGEST]}...")


class CoreError(Exception):
    """Root. `.errno` is POSIX, `.definite` says whether the operation definitely did not happen."""

    errno: int = errno.EIO
    definite: bool = True


class Refused(CoreError):
    """A request that cannot be carried out. Nothing has changed."""

    def __init__(self, number: int, sentence: str) -> None:
        super().__init__(sentence)
        self.errno = number

    def __reduce__(self) -> tuple[type[Refused], tuple[int, str]]:
        return (type(self), (self.errno, str(self)))


def printable(text: str) -> str:
    """One line without control characters, whatever a stranger's exception says: it is shown on terminals."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


class ProtocolBroke(CoreError):
    """A protocol broke a rule of the contract (`rule` is its name in docs/protocols.md)."""

    errno = errno.EPROTO

    def __init__(self, protocol: str, rule: str, sentence: str) -> None:
        sentence = printable(sentence)
        super().__init__(f"protocol {protocol} broke {rule}: {sentence}")
        self.protocol, self.rule, self.sentence = protocol, rule, sentence

    def __reduce__(self) -> tuple[type[ProtocolBroke], tuple[str, str, str]]:
        return (type(self), (self.protocol, self.rule, self.sentence))
