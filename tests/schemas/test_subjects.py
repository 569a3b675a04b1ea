"""The subjects: parsers are exact inverses of the builders, and nothing else parses."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from linestop.errors import InputError
from linestop.schemas import subjects
from linestop.schemas.subjects import ACTORS, ROLES, VERBS, AgentName, RoleName, RunId, TenantId, Verb

names = st.from_regex(subjects.NAME_PATTERN, fullmatch=True)
tenants = names.map(TenantId)
runs = names.map(RunId)
agents = names.map(AgentName)
roles = st.sampled_from(ROLES)
numbers = st.integers(min_value=1, max_value=10**subjects.NUMBER_DIGITS_MAX - 1)
digests = st.binary(min_size=32, max_size=32).map(bytes.hex)

PARSERS: dict[str, Callable[[str], msgspec.Struct]] = {
    "runs": subjects.parse_run_event,
    "tasks": subjects.parse_task,
    "control": subjects.parse_control,
    "deltas": subjects.parse_delta,
    "timers": subjects.parse_timer,
    "wake": subjects.parse_wake,
    "dead": subjects.parse_dead_letter,
}
TENANT, RUN = TenantId("acme"), RunId("run-1")
EXAMPLES = {
    "runs": subjects.run_event(TENANT, RUN, role="planner", event="proposed", n=7),
    "forks": subjects.fork(subjects.run_event(TENANT, RUN, role="planner", event="proposed", n=7)),
    "tasks": subjects.task(TENANT, AgentName("support")),
    "control": subjects.control(TENANT, RUN, verb="stop"),
    "outcomes": subjects.outcome(TENANT, subjects.NO_AGENT, run=RUN),
    "deltas": subjects.delta(TENANT, RUN, turn=2, attempt=1),
    "alerts": subjects.alert(TENANT, "stopped"),
    "timers": subjects.timer_set(TENANT, RUN, name="approval-3"),
    "wake": subjects.wake(TENANT, RUN, role="budget"),
    "dead": subjects.dead_letter(TENANT, RUN, role="executor"),
    "blobs": subjects.blob(TENANT, "ab" * 32, part=0),
}


def matches(pattern: str, subject: str) -> bool:
    """Whether ``subject`` matches ``pattern`` by the rules of the broker."""
    expected, tokens = pattern.split("."), subject.split(".")
    if expected[-1] == ">":
        expected = expected[:-1]
        if len(tokens) <= len(expected):
            return False
        tokens = tokens[: len(expected)]
    return len(expected) == len(tokens) and all(w in ("*", t) for w, t in zip(expected, tokens, strict=True))


@given(tenants, runs, roles, names, numbers)
def test_a_run_event_parses_to_its_parts_and_matches_its_filters(
    tenant: TenantId, run: RunId, role: RoleName, event: str, n: int
) -> None:
    """A subject has exactly the parts it was built from, and every filter of it matches."""
    subject = subjects.run_event(tenant, run, role=role, event=event, n=n)
    parsed = subjects.parse_run_event(subject)
    assert parsed == subjects.RunSubject(tenant=tenant, run=run, role=role, event=event, n=n)
    assert subjects.fork(subject) == f"forks.{tenant}.{run}.{role}.{event}.{n}"
    for pattern in (
        subjects.run_filter(tenant, run),
        subjects.event_filter(role, event),
    ):
        assert matches(pattern, subject)
        assert matches(subjects.live_subject(pattern), subjects.live_subject(subject))
    assert not matches(subjects.run_filter(tenant, RunId("x" + run[:62])), subject)


@given(tenants, runs, agents, st.sampled_from(VERBS))
def test_a_message_to_or_from_a_service_parses_to_its_parts(
    tenant: TenantId, run: RunId, agent: AgentName, verb: Verb
) -> None:
    """Tasks and control messages come back as they were built, and outcomes have their parts in order."""
    assert subjects.parse_task(subjects.task(tenant, agent)) == subjects.TaskSubject(tenant=tenant, agent=agent)
    control = subjects.control(tenant, run, verb=verb)
    assert subjects.parse_control(control) == subjects.ControlSubject(tenant=tenant, run=run, verb=verb)
    assert matches(subjects.control_filter(verb), control)
    outcome = subjects.outcome(tenant, agent, run=run)
    assert outcome == f"outcomes.{tenant}.{agent}.{run}"
    assert matches(subjects.run_outcome_filter(tenant, run), outcome)


@given(tenants, runs, roles, names, numbers, numbers)
def test_everything_else_parses_to_its_parts(  # noqa: PLR0917 - one strategy an argument
    tenant: TenantId, run: RunId, role: RoleName, name: str, turn: int, attempt: int
) -> None:
    """Deltas, timers, hints and dead letters come back as they were built."""
    delta = subjects.parse_delta(subjects.delta(tenant, run, turn=turn, attempt=attempt))
    assert delta == subjects.DeltaSubject(tenant=tenant, run=run, turn=turn, attempt=attempt)
    assert subjects.alert(tenant, name) == f"alerts.{tenant}.{name}"
    timer = subjects.parse_timer(subjects.timer_set(tenant, run, name=name))
    assert timer == subjects.TimerSubject(action="set", tenant=tenant, run=run, name=name)
    fired = subjects.parse_timer(subjects.timer_fire(tenant, run, name=name))
    assert fired == subjects.TimerSubject(action="fire", tenant=tenant, run=run, name=name)
    expected = subjects.RoleRunSubject(role=role, tenant=tenant, run=run)
    wake = subjects.wake(tenant, run, role=role)
    assert (
        subjects.parse_wake(wake)
        == expected
        == subjects.parse_dead_letter(subjects.dead_letter(tenant, run, role=role))
    )
    assert matches(subjects.wake_filter(role), wake)


@given(tenants, digests, st.integers(min_value=0, max_value=10**6))
def test_the_subject_of_a_blob_part_names_its_tenant_digest_and_number(
    tenant: TenantId, digest: str, part: int
) -> None:
    """Parts count from 0."""
    assert subjects.blob(tenant, digest, part=part) == f"blobs.{tenant}.{digest}.{part}"


@given(st.text(max_size=70))
def test_a_name_is_accepted_only_if_every_character_is_allowed_in_a_subject(text: str) -> None:
    """An accepted name has no dot, no wildcard, no space, no capital and a bounded length."""
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789-")
    good = 0 < len(text) <= 63 and set(text) <= allowed and not text.startswith("-")
    if good:
        assert subjects.check_name("run", text) == text
    else:
        with pytest.raises(InputError, match="small letters, digits and hyphens"):
            subjects.check_name("run", text)


@pytest.mark.parametrize("root", PARSERS)
@given(data=st.data())
def test_a_damaged_subject_does_not_parse(root: str, data: st.DataObject) -> None:
    """One spelling of everything: wildcards, capitals, missing and extra tokens are refused."""
    tokens = EXAMPLES[root].split(".")
    at = data.draw(st.integers(0, len(tokens) - 1))
    bad = data.draw(st.sampled_from(["", "*", ">", "A", "a b", "-a", "a\n", "ä", "x" * 64, "a.b"]))
    with pytest.raises(InputError, match="does not have the form"):
        PARSERS[root](".".join([*tokens[:at], bad, *tokens[at + 1 :]]))
    with pytest.raises(InputError):
        PARSERS[root](EXAMPLES[root] + data.draw(st.sampled_from([".", ".x", "\n", " "])))


@pytest.mark.parametrize("root", PARSERS)
def test_a_parser_refuses_the_subjects_of_all_others(root: str) -> None:
    """The grammars do not overlap."""
    PARSERS[root](EXAMPLES[root])
    for other, subject in EXAMPLES.items():
        if other != root:
            with pytest.raises(InputError):
                PARSERS[root](subject)


@pytest.mark.parametrize("number", ["0", "01", "+1", "1_0", "٣", "99999999999"])
def test_an_event_number_has_one_spelling(number: str) -> None:
    """Two spellings of one number would be two subjects for one place in the run."""
    with pytest.raises(InputError):
        subjects.parse_run_event(f"runs.acme.run-1.planner.proposed.{number}")


def test_builders_refuse_values_that_would_not_parse() -> None:
    """No builder lets a wildcard, an unknown role or a number out of range into a subject."""
    with pytest.raises(InputError, match="tenant '\\*' is not a name"):
        subjects.run_filter(TenantId("*"), RUN)
    with pytest.raises(InputError, match="run 'a\\.b' is not a name"):
        subjects.run_filter(TENANT, RunId("a.b"))
    with pytest.raises(InputError, match="n 0 is out of range"):
        subjects.run_event(TENANT, RUN, role="planner", event="proposed", n=0)
    with pytest.raises(InputError, match="'janitor' is not a role"):
        subjects.event_filter("janitor", "proposed")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="not a control verb"):
        subjects.control(TENANT, RUN, verb="explode")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="not a SHA-256"):
        subjects.blob(TENANT, "AB" * 32, part=0)
    with pytest.raises(InputError, match="must begin with 'live\\.'"):
        subjects.stored_subject("runs.a.b")
    with pytest.raises(InputError, match="must begin with 'runs\\.'"):
        subjects.fork("tasks.a.b")


def test_names_are_checked_by_kind() -> None:
    """Ids from outside get their type only after the check."""
    assert subjects.tenant_id("acme") == "acme"
    assert subjects.run_id("0") == "0"
    assert subjects.stored_subject(subjects.live_subject("runs.a")) == "runs.a"
    with pytest.raises(InputError, match="run 'A' is not a name"):
        subjects.run_id("A")


def test_the_filter_of_a_run_is_the_one_of_the_contract() -> None:
    """Replicas compare it character by character, so it is pinned here exactly."""
    assert subjects.run_filter(TENANT, RUN) == "runs.acme.run-1.>"
    assert ACTORS == ("planner", "validator", "approver", "budget", "executor", "recorder")


def test_a_verb_that_does_not_exist_is_named_with_those_that_do() -> None:
    """A misspelt verb gives a helpful error."""
    with pytest.raises(InputError, match="'stopp' is not a control verb: use one of stop, pause"):
        subjects.parse_control("control.acme.r1.stopp")
