"""Lines of events.jsonl back into the events that they were. Bytes, of which a line has the length only, come back as zeros."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from emu.core import events, requests
from emu.history.events import fields_of

Json = dict[str, Any]

KINDS = {kind.__name__: kind for kind in events.Event.__subclasses__()}
ASKED = {kind.__name__: kind for kind in requests.REQUESTS.values()}
OWN = ("n", "t", "epoch", "kind", "type")


def event_of(line: Json) -> events.Event:
    """Raises ValueError."""
    kind = KINDS.get(str(line["type"]))
    if kind is None:
        raise ValueError(f"{line['type']} is no event")
    values = own_fields(line)
    if kind is events.Requested:
        values["op"] = _request(values["op"])
        values["host"] = _host(values["host"]) if values["host"] else None
    if kind is events.Answered and isinstance(values["value"].get("data"), int):
        values["value"] = {**values["value"], "data": bytes(values["value"]["data"])}
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{line['type']}: {error}") from None


def _request(op: Json) -> requests.Request:
    kind = ASKED.get(str(op["type"]))
    if kind is None:
        raise ValueError(f"{op['type']} is no request")
    values = {name: value for name, value in op.items() if name != "type"}
    if "type_" in values:
        values["type"] = values.pop("type_")
    for field in fields(kind):
        if field.type == "bytes":
            values[field.name] = bytes(int(values[field.name]))
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{op['type']}: {error}") from None


def _host(values: Json) -> events.HostFile:
    return events.HostFile(**{name: value for name, value in values.items() if name != "type"})


def own_fields(line: Json) -> Json:
    """A line's fields under their own names."""
    values = {name: value for name, value in line.items() if name not in OWN}
    for name in OWN:
        if f"{name}_" in values:
            values[name] = values.pop(f"{name}_")
    return values


def written(effect: Any) -> Json:
    """What a line holds of an effect, as it is read back from JSON."""
    values: Json = fields_of(effect)
    return values
