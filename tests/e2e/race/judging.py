"""Which side won the races, and whether anything was done that a stop had ruled out.

After the acknowledgement of a stop a bounded number of requests may still arrive at the tool's server: a call that was
started before the stop may take effect within ``EFFECT_AFTER_ACK_S`` of the append of its start, and so within that
time of the stop's acknowledgement, which is later. All processes of a race read one monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from linestop.schemas.defaults import EFFECT_AFTER_ACK_S
from linestop.schemas.events import EffectStarted
from linestop.schemas.run.fold import Run, fold_messages
from linestop.schemas.subjects import RunId, TenantId

MACHINE_S: Final = 1.0
"""The time that the loopback network and the loops of three processes on one busy machine may add.

Typically it is a few milliseconds. The tool may take five seconds to begin, so only the stop prevents a call that was
started just before it from arriving later than this.
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
    """What the third process prints about a stop: its event number, when it was acknowledged, which call it raced."""

    run: str
    n: int
    acked_ns: int
    call: str


class Race(NamedTuple):
    """One run after its end: its stop, its effect starts by call and attempt, and all starts stored after the stop."""

    stop: Stop
    started_n: Mapping[tuple[str, int], int]
    starts_after_stop: Sequence[str]

    @property
    def start_won(self) -> bool:
        """Whether the raced call was started before the stop."""
        return any(call == self.stop.call and n < self.stop.n for (call, _), n in self.started_n.items())


def race_of(tenant: TenantId, stop: Stop, messages: list[tuple[str, bytes, int]]) -> Race:
    """The race as it is in the log, in the order of the stream."""
    run: Run = fold_messages(tenant, RunId(stop.run), messages)
    assert run.sealed is not None, f"{stop.run} is not sealed"
    assert stop.n, f"{stop.run} was over before it was stopped"
    stop_index = [subject for subject, _, _ in messages].index(f"runs.{tenant}.{stop.run}.operator.stopped.{stop.n}")
    started_n = {
        (line.call, line.attempt): entry.n
        for entry in run.entries
        if isinstance(entry.event, EffectStarted)
        for line in entry.event.calls
    }
    return Race(stop, started_n, [subject for subject, _, _ in messages[stop_index + 1 :] if ".started." in subject])


def assert_no_start_after_stop(races: Sequence[Race], requests: Sequence[Request]) -> None:
    """Nothing started after an acknowledged stop, neither in the log nor at the tool's server; both sides won."""
    by_run = {race.stop.run: race for race in races}
    forbidden = [f"{race.stop.run}: {race.starts_after_stop}" for race in races if race.starts_after_stop]
    assert not forbidden, f"{len(forbidden)} starts in the log behind the stop: {forbidden}"
    unstarted = [
        r for r in requests if not 0 < by_run[r.run].started_n.get((r.call, r.attempt), 0) < by_run[r.run].stop.n
    ]
    assert not unstarted, f"{len(unstarted)} requests at the tool's server without a start before the stop: {unstarted}"
    late = [(r, (r.arrived_ns - by_run[r.run].stop.acked_ns) / 1e9) for r in requests]
    late = [(r, late_s) for r, late_s in late if late_s > ARRIVAL_AFTER_ACK_MAX_NS / 1e9]
    assert not late, f"{len(late)} requests at the tool's server too long after the stop's acknowledgement: {late}"
    start_first = sum(race.start_won for race in races)
    wins_min = WINS_SHARE_MIN * len(races)
    assert len(races) - start_first >= wins_min, f"the stop won only {len(races) - start_first} of {len(races)} races"
    assert start_first >= wins_min, f"the start won only {start_first} of {len(races)} races"
    raced = {(race.stop.run, race.stop.call) for race in races if race.start_won}
    assert any((r.run, r.call) in raced for r in requests), "no raced call reached the tool's server"
