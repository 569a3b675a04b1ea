"""Every channel of the bus in one table: its subject, its stream, what is sent there, by whom and why.

The documents for people (``docs/events.md``) and for programs (AsyncAPI) are made from it.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from linestop.bus import stream_names
from linestop.bus.run_outcomes_and_alerts import Outcome
from linestop.schemas.messages import Control, Task

Direction = Literal["in", "out", "inside"]
"""Seen from the system: what others send to it, what it sends to others, what its parts tell each other."""


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of message. ``payload`` is a struct, ``json`` for other JSON, ``text``, ``bytes`` or ``none``.

    ``stream`` is empty for core NATS, where only who listens at that moment hears it.
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
        key="tasks", address="tasks.{tenant}.{agent}", direction="in", payload=Task, stream=stream_names.TASKS,
        description="A task from any service. Structured CloudEvents are understood as well.",
    ),
    Channel(
        key="control", address="control.{tenant}.{run}.{verb}", direction="in", payload=Control,
        stream=stream_names.CONTROL,
        description="What people and services want of a run. What the credential `client` sends is stored in CLIENTS.",
    ),
    Channel(
        key="forks", address="forks.{tenant}.{run}.{role}.{event}.{n}", direction="inside", payload="json",
        stream=stream_names.FORKS, is_ordered=True,
        description="The log of a fork: a run's events, under another first token.",
    ),
    Channel(
        key="outcomes", address="outcomes.{tenant}.{agent}.{run}", direction="out", payload=Outcome,
        stream=stream_names.OUTCOMES, description="How a run ended, once, when it is sealed.",
    ),
    Channel(
        key="live", address="live.runs.{tenant}.{run}.{role}.{event}.{n}", direction="out", payload="json",
        description="An event as the server republishes it when it is stored, for watchers.",
    ),
    Channel(
        key="deltas", address="deltas.{tenant}.{run}.{turn}.{attempt}", direction="out", payload="text",
        description="A model's text as it comes; lossy.",
    ),
    Channel(
        key="alerts", address="alerts.{tenant}.{kind}", direction="out", payload="json", stream=stream_names.ALERTS,
        description="Something a person should look at: tenant, run, agent, the event and its number `n`; in "
        "`no-worker`, the role that nobody does, and in `lost`, why. `clock-off` and `space` are of the tenant "
        "`system` and name a worker, or what is nearly full.",
    ),
    Channel(
        key="timersSet", address="timers.set.{tenant}.{run}.{name}", direction="inside", payload="none",
        stream=stream_names.TIMERS, description="A schedule of the server: sets, moves or cancels a run's timer.",
    ),
    Channel(
        key="timersFire", address="timers.fire.{tenant}.{run}.{name}", direction="inside", payload="none",
        stream=stream_names.TIMERS, description="What the server publishes when the timer is due.",
    ),
    Channel(
        key="wake", address="wake.{role}.{tenant}.{run}", direction="inside", payload="none",
        description="A hint to a role to look at a run; it may be lost.",
    ),
    Channel(
        key="dead", address="dead.{role}.{tenant}.{run}", direction="out", payload="json", stream=stream_names.DEAD,
        description="What a role could not handle: the run, the event it stood at, and the reason.",
    ),
    Channel(
        key="blobs", address="blobs.{tenant}.{sha256}.{part}", direction="inside", payload="bytes",
        stream=stream_names.BLOBS,
        description="A part of a payload that is too long for an event, write-once under its digest.",
    ),
)  # fmt: skip
"""All channels but those of the run log, which has one for each event."""

PARAMETERS: Final[dict[str, str]] = {
    "tenant": "Whose run it is: 1 to 63 small letters, digits and hyphens.",
    "run": "The run's id, of the same form.",
    "agent": "The agent's name, of the same form; `none` for a run that was never opened.",
    "role": "Who says it.",
    "event": "What happened.",
    "n": "The event's number in its run: 1, 2, 3 … without gaps.",
    "verb": "What is wanted.",
    "kind": "What kind of alert it is: `approval-asked`, `stopped`, `threshold`, `wider-contract`, "
    "`over-reservation`, `no-worker`, `clock-off`, `space` or `lost`.",
    "turn": "Which turn of the model, from 1.",
    "attempt": "Which attempt of that turn, from 1.",
    "name": "The timer's name.",
    "sha256": "The digest of the whole, in hex.",
    "part": "Which part of it, from 0.",
}
