"""The TOML format of a playbook, a scripted model; read strictly.

Tables are closed: a misspelt key is an error that names file and key, because a script that silently ignores a
key would make every test that uses it worthless.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from linestop.config.toml_files import convert, parse_toml, read_text
from linestop.errors import ConfigError
from linestop.schemas.json_values import JsonObject

Positive = Annotated[int, msgspec.Meta(ge=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]


class When(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The conditions of a step; every given key must hold.

    ``turn`` counts the model's answers from 1. ``contains`` and ``not_contains`` search the texts of users and tools
    so far, ignoring case. ``tool_result`` names a tool whose result has just come.
    """

    turn: Positive | None = None
    contains: str | None = None
    not_contains: str | None = None
    tool_result: str | None = None


class Call(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tool call: ``args``, or ``raw_args``, which is sent unchanged and may be broken JSON."""

    tool: str
    args: JsonObject = {}
    raw_args: str | None = None


class _Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """``times``: how many requests at this place of a conversation get the fault; by default all."""

    times: Positive | None = None


class Status(_Fault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="status"):
    """An HTTP error in the provider's own shape."""

    status: Annotated[int, msgspec.Meta(ge=300, le=599)]
    retry_after_s: Seconds | None = None
    message: str = "The playbook says so."


class Delay(_Fault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="delay"):
    """A late answer."""

    delay_s: Seconds


class Cut(_Fault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="cut"):
    """A connection that breaks after this many bytes or events of the body."""

    after_bytes: Count | None = None
    after_events: Count = 1


class Malformed(_Fault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="malformed"):
    """A body, or an event in the middle of a stream, that is not JSON."""


class Truncated(_Fault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="truncated"):
    """An answer that reached its token limit: text and arguments are cut, and the stop reason shows it."""


class Html(_Fault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="html"):
    """A status of 200 with a web page, as captive portals and proxies send it."""


class Empty(_Fault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="empty"):
    """A status of 200 with an empty body."""


class Never(_Fault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="never"):
    """No answer at all while the client stays connected."""


class NoTerminal(_Fault, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="no_terminal"):
    """A stream that ends properly, but without the event that completes the answer."""


Fault = Status | Delay | Cut | Malformed | Truncated | Html | Empty | Never | NoTerminal


class Tokens(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The usage that the answer reports. ``input`` excludes the cache figures, ``output`` includes the reasoning."""

    input: Count = 0
    output: Count = 0
    cache_read: Count = 0
    cache_write: Count = 0
    reasoning: Count = 0


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One answer of the model.

    ``stop`` replaces the stop reason on the wire; the empty text leaves it out. ``repeat`` lets the step answer any
    number of times. ``pace_s`` is the wait between the pieces of a stream.
    """

    when: When = When()
    say: str = ""
    call: tuple[Call, ...] = ()
    thinking: str = ""
    stop: str | None = None
    repeat: bool = False
    pace_s: Seconds = 0.0
    fault: Fault | None = None
    usage: Tokens | None = None


class Playbook(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One scripted model, chosen by its ``name``.

    ``tools``: ``native`` makes tool calls. ``json_schema`` is a model that cannot, but obeys a ``response_format``;
    ``none`` does neither. The last two otherwise name in plain text the tools that they would have called.
    """

    name: str
    tools: Annotated[str, msgspec.Meta(pattern="^(native|json_schema|none)$")] = "native"
    steps: tuple[Step, ...] = msgspec.field(name="step")


def load_playbook(path: Path) -> Playbook:
    """Read a playbook.

    Raises:
        ConfigError: naming file and key, when the file cannot be read or is not a playbook.
    """
    return parse_playbook(read_text(path, str(path)), str(path))


def parse_playbook(text: str, source: str = "playbook") -> Playbook:
    """Read a playbook from TOML text; ``source`` is the name that errors use.

    Raises:
        ConfigError: naming ``source`` and the key.
    """
    playbook = convert(parse_toml(text, source), Playbook, source)
    _check(playbook, source)
    return playbook


def _check(playbook: Playbook, source: str) -> None:
    if not playbook.name or not playbook.steps:
        raise ConfigError(f"{source}, name and step: a playbook needs a name and at least one step.")
    for number, step in enumerate(playbook.steps):
        if not (step.say or step.call or step.fault or step.thinking or step.stop is not None):
            raise ConfigError(f"{source}, step[{number}]: give it something to do: say, call, stop or fault.")
        for place, call in enumerate(step.call):
            if call.raw_args is not None and call.args:
                raise ConfigError(f"{source}, step[{number}].call[{place}]: use args or raw_args, not both.")
