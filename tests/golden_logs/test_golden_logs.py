"""Logs of earlier versions: they always fold to the same state, and every beginning of one can be ended."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest
from tests.builders import RUN, TENANT
from tests.golden_logs.make import HERE, STORIES, summary_of
from tests.laws.walk import Walk

from linestop.actors.model_turn.prompt import assemble
from linestop.schemas.agents import AgentVersion
from linestop.schemas.events import ModelStarted
from linestop.schemas.run.fold import Run, fold_messages
from linestop.schemas.run.phases import Phase
from linestop.schemas.run.starting.model_choice import models_of
from linestop.schemas.subjects import RunId, TenantId

Message = tuple[str, bytes, int]
NAMES = sorted(path.stem for path in HERE.glob("*.jsonl"))


def log_of(name: str) -> list[Message]:
    """Return the stored messages of a golden log."""
    lines = (HERE / f"{name}.jsonl").read_bytes().splitlines()
    read = [msgspec.json.decode(line, type=dict[str, str]) for line in lines]
    return [(line["subject"], line["payload"].encode(), seq) for seq, line in enumerate(read, 1)]


def expected(name: str) -> dict[str, Any]:
    """Return the expected state, with the agent it was opened with under ``agent``."""
    found: dict[str, Any] = msgspec.json.decode((HERE / f"{name}.expect.json").read_bytes())
    return found


def as_json(value: object) -> object:
    """Return a value as it is read back."""
    return msgspec.json.decode(msgspec.json.encode(value))


def test_every_story_has_its_log_and_every_log_its_story() -> None:
    """A golden log is never removed."""
    assert set(STORIES) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_golden_log_folds_to_the_same_state_as_before(name: str) -> None:
    """The state is: phase, seal, totals, every call, the ignored events, and the hash of the head."""
    run = fold_messages(TENANT, RUN, log_of(name))
    expected_fold = expected(name)
    agent = expected_fold.pop("agent")
    assert as_json(summary_of(run)) == expected_fold
    assert msgspec.convert(agent, AgentVersion).name == "desk"


@pytest.mark.parametrize("name", NAMES)
def test_the_stored_agent_version_of_a_golden_log_is_the_one_its_run_was_opened_with(name: str) -> None:
    """The present version finds it under the digest that the log names, and reads the same agent."""
    opened = fold_messages(TENANT, RUN, log_of(name)).opened
    file = HERE / f"{name}.agent.json"
    assert file.exists() == (opened is not None)
    if opened is not None:
        stored = file.read_bytes()
        assert hashlib.sha256(stored).hexdigest() == opened.agent.digest
        version = msgspec.json.decode(stored, type=AgentVersion)
        assert version.stored_bytes() == msgspec.convert(expected(name)["agent"], AgentVersion).stored_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_every_beginning_of_a_golden_log_is_ended_by_the_present_roles(name: str) -> None:
    """After an upgrade in the middle of a run, the new version brings the run to its seal."""
    log, version = log_of(name), msgspec.convert(expected(name)["agent"], AgentVersion)
    for length in range(1, len(log) + 1):
        walk = Walk(version=version, log=log[:length])
        run = walk.run_to_seal()
        assert run.phase is Phase.SEALED
        assert not [entry.ignored for entry in run.entries if entry.ignored], length
        assert not run.open_attempts
        assert not run.holds


@pytest.mark.parametrize("name", NAMES)
def test_every_prompt_of_a_golden_log_has_the_digest_in_its_log(name: str) -> None:
    """The present version builds each prompt from the events before it, and gets the stored digest."""
    log = log_of(name)
    run, version = Run(TENANT, RUN), msgspec.convert(expected(name)["agent"], AgentVersion)
    events = [entry.event for entry in fold_messages(TENANT, RUN, log).entries]
    for event, message in zip(events, log, strict=True):
        if isinstance(event, ModelStarted):
            assert run.opened is not None
            model = next(choice for choice in models_of(run.opened) if choice.is_requested_by(event))
            prompt = assemble(
                run, version, purpose=event.purpose, model=model, dropped_to=event.dropped_to, limit=event.limit
            )
            assert prompt.sha256 == event.prompt_sha256 != ""
        run.apply(*message)


@pytest.mark.parametrize("name", NAMES)
def test_a_log_fed_twice_or_with_foreign_messages_folds_to_the_same(name: str) -> None:
    """Void messages keep their place in the stream and change nothing."""
    log = log_of(name)
    run, seq = Run(TENANT, RUN), 0
    for subject, payload, _ in log:
        for s, p in ((subject, payload), (subject, payload), (subject.replace("runs.", "live.runs.", 1), payload)):
            seq += 1
            run.apply(s, p, seq)
        run.apply(subject, payload, seq)
    plain = fold_messages(TENANT, RUN, log)
    assert (run.head, run.n, run.phase, run.sealed) == (plain.head, plain.n, plain.phase, plain.sealed)
    assert sum(1 for entry in run.entries if not entry.n) == 2 * len(log)


@pytest.mark.parametrize("name", NAMES)
def test_a_log_under_another_runs_name_is_void(name: str) -> None:
    """The chain begins with tenant and run, so a copied log proves nothing."""
    log = log_of(name)
    for tenant, other in ((TENANT, RunId("r2")), (TenantId("umbrella"), RUN)):
        run = fold_messages(tenant, other, log)
        assert (run.n, run.phase) == (0, Phase.NEW)


@pytest.mark.parametrize("name", NAMES)
def test_a_log_with_one_byte_changed_ends_there(name: str) -> None:
    """The events after a changed event do not chain."""
    log = log_of(name)
    subject, payload, seq = log[0]
    run = fold_messages(TENANT, RUN, [(subject, payload.replace(b'"id":"e1"', b'"id":"x1"'), seq), *log[1:]])
    assert run.n == 1
    assert all(entry.ignored for entry in run.entries[1:])
    assert all("hash" in entry.ignored for entry in run.entries[1:2])
