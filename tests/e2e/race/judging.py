"""Who won the races, and whether anything was done that a stop had ruled out.

What may still arrive at the tool's server after a stop was acknowledged is bounded, not nothing: a call that was
started before the stop, whose effect begins within ``EFFECT_AFTER_ACK_S`` of when its start was asked for, and so
within that time of the stop's acknowledgement, which is later. All processes of a race read one monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from linestop.schemas.defaults import EFFECT_AFTER_ACK_S
from linestop.schemas.events import EffectStarted
from linestop.schemas.run.state import Run, fold_messages
from linestop.schemas.subjects import RunId, TenantId

MACHINE_S: Final = 1.0
"""What the loopback network and the loops of three processes on one busy machine may add to that.

Typically it is a few milliseconds. The tool's own time to begin is five seconds, so nothing but the stop keeps a
call that was started just before it from arriving later than this.
"""

ARRIVAL_AFTER_ACK_MAX_NS: Final = int((EFFECT_AFTER_ACK_S + MACHINE_S) * 1e9)
WINS_SHARE_MIN: Final = 0.2


class Request(NamedTuple):
    """One request at the tool's server, with its arrival in monotonic nanoseconds."""

    run: str
    call: str
    attempt: int
    arrived_ns: int


class Stop(msgspec.Struct, frozen=True, kw_only=True):
    """What the third process says of a stop: its number in the log, when it was acknowledged, what it raced."""

    run: str
    n: int
    acked_ns: int
    call: str


class Race(NamedTuple):
    """One run after its end: its stop, its starts of effects by call and attempt, and all starts stored later."""

    stop: Stop
    begun: Mapping[tuple[str, int], int]
    after: Sequence[str]

    @property
    def start_won(self) -> bool:
        """Whether the very call that was raced was started before the stop."""
        return any(call == self.stop.call and n < self.stop.n for (call, _), n in self.begun.items())


def race_of(tenant: TenantId, stop: Stop, messages: list[tuple[str, bytes, int]]) -> Race:
    """The race as the log tells it, message by message in the stream's own order."""
    run: Run = fold_messages(tenant, RunId(stop.run), messages)
    assert run.sealed is not None, f"{stop.run} is not sealed"
    assert stop.n, f"{stop.run} was over before it was stopped"
    place = [subject for subject, _, _ in messages].index(f"runs.{tenant}.{stop.run}.operator.stopped.{stop.n}")
    begun = {
        (line.call, line.attempt): entry.n
        for entry in run.entries
        if isinstance(entry.event, EffectStarted)
        for line in entry.event.calls
    }
    return Race(stop, begun, [subject for subject, _, _ in messages[place + 1 :] if ".started." in subject])


def assert_no_start_after_stop(races: Sequence[Race], requests: Sequence[Request]) -> None:
    """Nothing started after an acknowledged stop: not in the log, not at the tool's server; both sides won."""
    by_run = {race.stop.run: race for race in races}
    starts_after_stop = [f"{race.stop.run}: {race.after}" for race in races if race.after]
    assert not starts_after_stop, f"{len(starts_after_stop)} starts in the log behind the stop: {starts_after_stop}"
    unstarted = [r for r in requests if not 0 < by_run[r.run].begun.get((r.call, r.attempt), 0) < by_run[r.run].stop.n]
    assert not unstarted, f"{len(unstarted)} requests at the tool's server without a start before the stop: {unstarted}"
    late = [(r, (r.arrived_ns - by_run[r.run].stop.acked_ns) / 1e9) for r in requests]
    late = [(r, late_s) for r, late_s in late if late_s > ARRIVAL_AFTER_ACK_MAX_NS / 1e9]
    assert not late, f"{len(late)} requests at the tool's server too long after the stop's acknowledgement: {late}"
    start_first = sum(race.start_won for race in races)
    wins_min = WINS_SHARE_MIN * len(races)
    assert len(races) - start_first >= wins_min, f"the stop won only {len(races) - start_first} of {len(races)} races"
    assert start_first >= wins_min, f"the start won only {start_first} of {len(races)} races"
    raced = {(race.stop.run, race.stop.call) for race in races if race.start_won}
    assert any((r.run, r.call) in raced for r in requests), "no raced call came to the tool's server"
