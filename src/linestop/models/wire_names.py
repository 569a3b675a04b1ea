"""Tool names and call ids in the form that providers accept.

Providers require ``^[a-zA-Z0-9_-]{1,64}$``, but linestop's tools have names like ``files.read``: a dot is sent as
two underscores. A name that would not come back unchanged is refused before anything is sent.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from linestop.schemas.model_messages import ModelFailed, ToolSpec
from linestop.schemas.run.starting.observed_tool_mode import JSON_MODE_ID_PREFIX, NATIVE_ID_PREFIX

NAME_CHARS_MAX = 64
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_UNIQUE_ID = re.compile(r"[a-zA-Z0-9_-]{8,40}")
_ID = re.compile(r"[a-zA-Z0-9_-]{1,40}")
_CHARS_TO_REPLACE = re.compile(r"[^a-zA-Z0-9_-]")


def to_wire(name: str) -> str:
    """Encode a tool's name for a provider; an unacceptable name is made acceptable.

    Only names in past calls need the latter: a model may have called a tool that never existed, and reporting
    that must not make every later request fail.
    """
    wire = name.replace(".", "__")
    if _NAME.fullmatch(wire):
        return wire
    return _CHARS_TO_REPLACE.sub("_", wire)[:NAME_CHARS_MAX] or "_"


def from_wire(wire: str) -> str:
    """Decode a tool's name from a provider; any text is a name, and the validator judges it."""
    return wire.replace("__", ".")


def check_names(tools: Iterable[ToolSpec]) -> None:
    """Refuse tools whose names cannot make the round trip.

    Raises:
        ModelFailed: ``permanent``, naming the first such tool.
    """
    for tool in tools:
        wire = tool.name.replace(".", "__")
        if not _NAME.fullmatch(wire) or from_wire(wire) != tool.name:
            raise ModelFailed(
                "permanent",
                f'The tool name "{tool.name}" cannot be sent to a model: use at most {NAME_CHARS_MAX} '
                "letters, digits, dots, dashes and single underscores (a dot counts twice).",
            )


def unique_id(call_id: str, reply_id: str) -> str:
    """Keep a call's id, or derive one from the reply's id if it is too short to be unique in a run.

    Some servers number the calls of every reply from "0" again.
    """
    return call_id if _UNIQUE_ID.fullmatch(call_id) else _digest(NATIVE_ID_PREFIX, reply_id, call_id)


def json_mode_call_id(reply_id: str) -> str:
    """Create the id of a call that a model made as a JSON object; its prefix shows that in the log."""
    return _digest(JSON_MODE_ID_PREFIX, reply_id, "")


def wire_id(call_id: str) -> str:
    """Encode a call's id for a provider; an id of another provider may be longer than this one accepts."""
    return call_id if _ID.fullmatch(call_id) else _digest("call_", "", call_id)


def _digest(prefix: str, reply_id: str, call_id: str) -> str:
    return prefix + hashlib.sha256(f"{reply_id}\0{call_id}".encode()).hexdigest()[:24]
