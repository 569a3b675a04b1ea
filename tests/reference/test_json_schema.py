"""The JSON Schemas, and the pages generated from the code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jsonschema_rs
import msgspec
import pytest
from tests.run_logs import RUN, SCENARIOS, TENANT, Message

from linestop.reference.json_schema import (
    DIALECT,
    NAMED_EVENTS,
    Document,
    control_document,
    events_document,
    phases_markdown,
    tasks_document,
)
from linestop.schemas.run.fold import Run
from linestop.schemas.run.phases import LEGAL, STOPPED, TRANSITIONS

DOCS = Path(__file__).parents[2] / "docs"


@pytest.mark.parametrize("document", [events_document(), tasks_document(), control_document()])
def test_every_document_is_a_valid_json_schema(document: Document) -> None:
    """The official meta-schema of the dialect accepts each of them, and all of their parts."""
    assert document["$schema"] == DIALECT
    jsonschema_rs.meta.validate(document)
    for schema in document["$defs"].values():
        jsonschema_rs.meta.validate({"$schema": DIALECT, **schema})


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_event_of_a_real_log_fits_its_schema(scenario: str, log_of: Callable[[str], list[Message]]) -> None:
    """The schemas describe the events that the roles really store, envelope included."""
    document = events_document()
    for subject, payload, _ in log_of(scenario):
        name = ".".join(subject.split(".")[3:5])
        schema = {"$ref": document["events"][name]["$ref"], "$defs": document["$defs"], "$schema": DIALECT}
        jsonschema_rs.validator_for(schema, offline=True).validate(msgspec.json.decode(payload))


def test_a_payload_without_its_envelope_does_not_fit() -> None:
    """Decisions leave the envelope empty, so the structs have defaults; a stored event must have it."""
    document = events_document()
    schema = {"$schema": DIALECT, "$ref": "#/$defs/Paused", "$defs": document["$defs"]}
    validator = jsonschema_rs.validator_for(schema, offline=True)
    assert validator.is_valid({"id": "1", "prev": "2", "at": "2026-01-01T00:00:00Z", "by": "ann"})
    assert not validator.is_valid({"by": "ann"})


def test_a_task_and_a_decision_fit_their_schemas() -> None:
    """The documents for clients accept the messages that a client may send and refuse others."""
    task = jsonschema_rs.validator_for(tasks_document(), offline=True)
    assert task.is_valid({"text": "do it", "key": "k", "limits": {"turns_max": 3}})
    assert not task.is_valid({"user": "ann"})
    control = jsonschema_rs.validator_for(control_document(), offline=True)
    assert control.is_valid({"by": "ann", "call": "c1", "args": {"a": 1}})
    assert not control.is_valid({"mode": "softly"})


def test_every_event_that_is_legal_anywhere_has_a_schema() -> None:
    """The table of phases and the schemas have the same events."""
    legal = {name for names in LEGAL.values() for name in names} - {STOPPED}
    assert legal == {name for name in NAMED_EVENTS if not name.endswith(f".{STOPPED}")}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_change_of_phase_is_in_the_diagram(scenario: str, log_of: Callable[[str], list[Message]]) -> None:
    """The diagram has the transitions that the fold makes."""
    run = Run(TENANT, RUN)
    for subject, payload, seq in log_of(scenario):
        before = run.phase
        entry = run.apply(subject, payload, seq)
        name = STOPPED if entry.name == STOPPED else f"{entry.role}.{entry.name}"
        assert run.phase is before or (before, name, run.phase) in TRANSITIONS


def test_every_transition_is_legal() -> None:
    """The diagram has no transition that the table of phases forbids."""
    assert [(source, event) for source, event, _ in TRANSITIONS if event not in LEGAL[source]] == []


def test_the_page_of_phases_is_up_to_date() -> None:
    """A change of the tables needs a new page; the page says how to write it."""
    assert (DOCS / "phases.md").read_text(encoding="utf-8") == phases_markdown()
