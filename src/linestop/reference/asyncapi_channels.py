"""Every channel of the bus in one table: its subject, its stream, its messages, their senders and purpose.

The documents for people (``docs/events.md``) and for programs (AsyncAPI) are generated from it.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from linestop.bus.run_outcomes_and_alerts import Outcome
from linestop.bus.streams import stream_names
from linestop.schemas.messages import Control, Task

Direction = Literal["in", "out", "inside"]
"""Seen from the system: messages to it, messages from it, and messages between its parts."""


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of message. ``payload`` is a struct, ``json`` for other JSON, ``text``, ``bytes`` or ``none``.

    ``stream`` is empty for core NATS, where only present subscribers receive the message.
    """

    key: str
    address: str
    direction: Direction
    payload: type[msgspec.Struct] | Literal["json", "text", "bytes", "none"]
    description: str
    stream: str = ""
    is_ordered: bool = False


CHANNELS: Final[tuple[Channel, ...]] = (
    Channel(
        key="tasks",
        address="tasks.{tenant}.{agent}",
        direction="in",
        payload=Task,
        stream=stream_names.TASKS,
        description="A task from any service. Structured CloudEvents are understood as well.",
    ),
    Channel(
        key="control",
        address="control.{tenant}.{run}.{verb}",
        direction="in",
        payload=Control,
        stream=stream_names.CONTROL,
        description="A control message about a run. Those of the credential `client` are stored in CLIENTS.",
    ),
    Channel(
        key="forks",
        address="forks.{tenant}.{run}.{role}.{event}.{n}",
        direction="inside",
        payload="json",
        stream=stream_names.FORKS,
        is_ordered=True,
        description="The log of a fork: a run's events, under another first token.",
    ),
    Channel(
        key="outcomes",
        address="outcomes.{tenant}.{agent}.{run}",
        direction="out",
        payload=Outcome,
        stream=stream_names.OUTCOMES,
        description="How a run ended, once, when it is sealed.",
    ),
    Channel(
        key="live",
        address="live.runs.{tenant}.{run}.{role}.{event}.{n}",
        direction="out",
        payload="json",
        description="An event, republished by the server when it is stored, for watchers.",
    ),
    Channel(
        key="deltas",
        address="deltas.{tenant}.{run}.{turn}.{attempt}",
        direction="out",
        payload="text",
        description="A model's text while it arrives; lossy.",
    ),
    Channel(
        key="alerts",
        address="alerts.{tenant}.{kind}",
        direction="out",
        payload="json",
        stream=stream_names.ALERTS,
        description="A matter that needs a person: tenant, run, agent, the event and its number `n`; in "
        "`no-worker`, the role without a worker, and in `lost`, the reason. `clock-off` and `space` are of the tenant "
        "`system` and name a worker, or the stream or disk that is nearly full.",
    ),
    Channel(
        key="timersSet",
        address="timers.set.{tenant}.{run}.{name}",
        direction="inside",
        payload="none",
        stream=stream_names.TIMERS,
        description="A schedule of the server: sets, moves or cancels a run's timer.",
    ),
    Channel(
        key="timersFire",
        address="timers.fire.{tenant}.{run}.{name}",
        direction="inside",
        payload="none",
        stream=stream_names.TIMERS,
        description="Published by the server when the timer is due.",
    ),
    Channel(
        key="wake",
        address="wake.{role}.{tenant}.{run}",
        direction="inside",
        payload="none",
        description="A hint to a role to advance a run; it may be lost.",
    ),
    Channel(
        key="dead",
        address="dead.{role}.{tenant}.{run}",
        direction="out",
        payload="json",
        stream=stream_names.DEAD,
        description="A message that a role could not handle: the run, its last event, and the reason.",
    ),
    Channel(
        key="blobs",
        address="blobs.{tenant}.{sha256}.{part}",
        direction="inside",
        payload="bytes",
        stream=stream_names.BLOBS,
        description="A part of a payload that is too long for an event, write-once under its digest.",
    ),
)
"""All channels except those of the run log, which has one for each event."""

PARAMETERS: Final[dict[str, str]] = {
    "tenant": "The tenant of the run: 1 to 63 small letters, digits and hyphens.",
    "run": "The run's id, of the same form.",
    "agent": "The agent's name, of the same form; `none` for a run that was never opened.",
    "role": "The role that appends the event.",
    "event": "The name of the event.",
    "n": "The event's number in its run: 1, 2, 3 … without gaps.",
    "verb": "The kind of control message.",
    "kind": "The kind of alert: `approval-asked`, `stopped`, `threshold`, `wider-contract`, "
    "`over-reservation`, `no-worker`, `clock-off`, `space` or `lost`.",
    "turn": "The turn of the model, from 1.",
    "attempt": "The attempt of that turn, from 1.",
    "name": "The timer's name.",
    "sha256": "The digest of the whole payload, in hex.",
    "part": "The number of the part, from 0.",
}
