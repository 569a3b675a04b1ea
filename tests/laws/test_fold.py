"""The fold handles everything: any bytes in any subject, any event of any role, in any order."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tests.builders import NOW, RUN, TENANT, at_work, call
from tests.laws.walk import AGENTS, Walk

from linestop.schemas.events import EVENTS
from linestop.schemas.run import hash_chain
from linestop.schemas.run.deadlines import deadlines
from linestop.schemas.run.fold import Run
from linestop.schemas.subjects import ROLES

BOUNDED = settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
TAGS = [*(f"{role}.{name}" for role, name in EVENTS), "planner.stopped", "operator.stopped", "planner.unheard"]
LATEST = "9999-12-31T23:59:59.999999Z"
TIMES = ["2026-01-01T12:00:00Z", LATEST, "0001-01-01T00:00:00+14:00", "2026-01-01T12:00:00"]
NUMBERS = st.one_of(st.integers(), st.sampled_from([0, -1, 2**64, 10**30]), st.floats())
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    NUMBERS,
    st.text(max_size=8),
    st.sampled_from(["look", "pay", "unknown", "succeeded", "failed", "retry", "done", "pass", *TIMES]),
)


def fields_of(tag: str) -> list[str]:
    """The names of an event's fields."""
    role, name = tag.split(".")
    kind = EVENTS.get((role, name))
    return list(kind.__struct_fields__) if kind else ["by", "why", "code"]


@st.composite
def spoilt(draw: st.DrawFn, payload: bytes) -> bytes:
    """A stored event with some of its values exchanged, its chain fields left alone."""
    value: dict[str, Any] = msgspec.json.decode(payload)

    def spoil(item: object) -> object:
        if isinstance(item, dict):
            fields = cast("dict[str, object]", item)
            return {key: inner if key in {"id", "prev"} else spoil(inner) for key, inner in fields.items()}
        if isinstance(item, list):
            return [spoil(inner) for inner in cast("list[object]", item)] * draw(st.integers(1, 2))
        return draw(LEAVES) if draw(st.integers(0, 9)) == 0 else item

    return msgspec.json.encode(spoil(value))


@BOUNDED
@given(st.text(max_size=60), st.binary(max_size=80))
@example("runs.acme.r1.planner.started.01", b"{}")
@example("runs.acme.r1.planner.a.b.c.1", b"{}")
@example("runs.acme.r1", b"")
@example("", b"\xff")
def test_any_subject_with_any_bytes_is_a_void_message(subject: str, payload: bytes) -> None:
    """It changes nothing but the place in the stream."""
    run = Run(TENANT, RUN)
    entry = run.apply(subject, payload, 7)
    assert entry.n == 0
    assert entry.ignored
    assert (run.n, run.head, run.head_seq) == (0, hash_chain.genesis(TENANT, RUN), 7)


@BOUNDED
@given(st.sampled_from(TAGS), st.binary(max_size=60))
@example("validator.opened", b"[" * 100_000)
@example("validator.opened", b'{"id":"a","prev":"' + b"0" * 64 + b'","task":' + b"[" * 100_000)
@example("validator.opened", b'{"id":"\\ud800","prev":"x"}')
def test_any_bytes_under_any_tag_fold(tag: str, payload: bytes) -> None:
    """A message without a readable envelope is not an event of the chain."""
    run = Run(TENANT, RUN)
    entry = run.apply(f"runs.acme.r1.{tag}.1", payload, 1)
    assert entry.ignored


@BOUNDED
@given(st.sampled_from(TAGS), st.dictionaries(st.text(max_size=6), LEAVES, max_size=4), st.data())
def test_any_event_that_chains_keeps_its_number_and_folds(tag: str, extra: dict[str, Any], data: st.DataObject) -> None:
    """Illegal, undecodable or unknown: the chain continues."""
    story = at_work(call("look"), call("pay"))
    names = fields_of(tag)
    body = {name: data.draw(LEAVES) for name in data.draw(st.lists(st.sampled_from(names), max_size=4))} | extra
    payload = msgspec.json.encode({**body, "id": "x", "prev": story.run.head})
    n = story.run.n + 1
    entry = story.run.apply(f"runs.acme.r1.{tag}.{n}", payload, story.run.head_seq + 1)
    assert (entry.n, story.run.n) == (n, n)
    assert story.run.has_unknown_events == (tag == "planner.unheard")
    assert story.run.head == hash_chain.link(f"runs.acme.r1.{tag}.{n}", payload)


@settings(BOUNDED, max_examples=100)
@given(st.integers(0, len(AGENTS) - 1), st.lists(st.integers(0, 10**6), min_size=5, max_size=40), st.data())
def test_a_log_with_spoilt_values_folds(choice: int, numbers: list[int], data: st.DataObject) -> None:
    """Every number, moment and text of a real log may be false: the fold decides what is legal and never fails."""
    walk = Walk(choice, check=False)
    for number in numbers:
        walk.step(number)
    run = Run(TENANT, RUN)
    for seq, (subject, payload, _) in enumerate(walk.messages, 1):
        value = msgspec.json.decode(data.draw(spoilt(payload)))
        entry = run.apply(subject, msgspec.json.encode({**value, "prev": run.head}), seq)
        assert entry.n == seq
        assert run.head_seq == seq
    again = Run(TENANT, RUN)
    for entry in run.entries:
        assert entry.n <= run.n
    assert again.head_seq == 0


@BOUNDED
@given(st.integers(0, len(AGENTS) - 1), st.lists(st.integers(0, 10**6), min_size=5, max_size=40))
def test_a_run_that_is_not_over_always_has_a_deadline(choice: int, numbers: list[int]) -> None:
    """No waiting run is ever forgotten: some role decides again, at the latest when the run is too old."""
    walk = Walk(choice, check=False)
    for number in numbers:
        walk.step(number)
        if not walk.run.done:
            assert deadlines(walk.run, walk.now)


@pytest.mark.parametrize("at", ["9000-01-01T00:00:00Z", LATEST])
def test_an_event_beyond_the_calendar_is_ignored(at: str) -> None:
    """No later event could follow it, and no date could be added to it."""
    story = at_work(call("look"))
    body = {
        "id": "x",
        "prev": story.run.head,
        "at": at,
        "call": "look",
        "attempt": 1,
        "outcome": "failed",
        "error": {"type": "transient", "message": "m", "retry_safe": True, "retry_after_s": 1e300},
    }
    subject = f"runs.acme.r1.executor.finished.{story.run.n + 1}"
    entry = story.run.apply(subject, msgspec.json.encode(body), story.run.head_seq + 1)
    assert entry.ignored == "its time is not before the year 9000"
    assert story.run.at == NOW


def test_every_role_may_stop_and_no_role_may_append_for_another() -> None:
    """Every role may append ``stopped``; every other event belongs to one role."""
    for role in ROLES:
        story = at_work(call("pay"))
        body = msgspec.json.encode({"id": "x", "prev": story.run.head, "by": role, "why": "x", "at": NOW})
        assert not story.run.apply(f"runs.acme.r1.{role}.stopped.{story.run.n + 1}", body, 99).ignored
        assert story.run.stopped_role == role
    story = at_work(call("pay"))
    body = msgspec.json.encode({"id": "x", "prev": story.run.head, "call": "pay", "by": "planner"})
    entry = story.run.apply(f"runs.acme.r1.planner.granted.{story.run.n + 1}", body, 99)
    assert entry.ignored == "'granted' is not an event of the planner"
    assert not story.run.has_unknown_events
