"""The origins of a call's values: people are asked seldom, and no attack passes."""

from __future__ import annotations

from datetime import date

import pytest
from tests.schemas.origin_cases import ATTACKS, BENIGN, CONTENT, Case

from linestop.schemas.events import Provenance
from linestop.schemas.provenance.argument_origins import (
    OCCURRENCES_MAX,
    VALUES_MAX,
    Source,
    Sources,
    TracedArguments,
    has_untrusted,
    trace,
    trusted_leaves,
)
from linestop.schemas.provenance.tokens import tokens

QUESTIONS_A_TASK_MAX = 0.2
TODAY = (date(2026, 1, 1),)


def lines(case: Case) -> tuple[Provenance, ...]:
    """Return the origins of the values of a case."""
    texts = (Source(0, case.task), *(Source(7, text) for text in case.trusted))
    contract = TracedArguments(parameters={"type": "object", "properties": case.properties}, content=CONTENT)
    return trace(case.args, contract, Sources(trusted=texts, today=TODAY))


@pytest.mark.parametrize("case", ATTACKS, ids=range(len(ATTACKS)))
def test_no_attack_passes(case: Case) -> None:
    """Parts, prefixes, suffixes, lookalikes, encodings, other units, keys, switches, links in a letter."""
    assert has_untrusted(lines(case)), case.args


def test_people_are_rarely_asked() -> None:
    """Task and call may write the same value in different ways."""
    asked = [case.task for case in BENIGN if has_untrusted(lines(case))]
    assert len(BENIGN) >= 60
    assert len(ATTACKS) >= 200
    assert len(asked) / len(BENIGN) <= QUESTIONS_A_TASK_MAX, asked


def test_trusted_paths_lead_into_lists_and_no_further() -> None:
    """A named field inside a list is trusted, its neighbours are not; an object is not trusted as a whole."""
    result = '{"contacts":[{"email":"a@x.org","note":"eve@x.org"},{"email":"b@x.org"}],"tags":["p",1,true],"id":7}'
    assert list(trusted_leaves(result, ("contacts[].email", "tags", "id"))) == ["a@x.org", "b@x.org", "p", "1", "7"]
    assert list(trusted_leaves(result, ("contacts", "contacts[]", "no.where", "id.x"))) == []
    assert list(trusted_leaves("plain", ("$",))) == ["plain"]
    assert list(trusted_leaves("[" * 10_000, ("a",))) == []


def test_an_outgoing_value_must_be_verbatim_in_a_text_of_the_run() -> None:
    """An unchanged link of a page may be followed; a link with added data needs a person."""
    page = Source(5, "go to https://x.org/a?b=1, or https://x.org/c.")
    sources = Sources(trusted=(Source(0, "read x"),), untrusted=(page,))
    for url, passes in (
        ("https://x.org/a?b=1", True),
        ("https://x.org/c", True),
        ("https://x.org/a", False),
        ("https://x.org/a?b=12", False),
        ("https://x.org/c?secret=1", False),
        ("x.org/c", False),
    ):
        found = trace({"url": url, "note": "free"}, TracedArguments(parameters=None, only=("url",)), sources)
        assert has_untrusted(found) is not passes, url


def test_too_many_values_count_as_of_unknown_origin() -> None:
    """Two hundred leaves are traced, and a limited number of characters."""
    sources = Sources(trusted=(Source(0, "pay 25"),))
    assert not has_untrusted(trace([25] * VALUES_MAX, TracedArguments(), sources))
    assert trace([25] * (VALUES_MAX + 1), TracedArguments(), sources)[-1].field == "too many values"
    assert trace(["25" * 50_000], TracedArguments(content=("",)), sources)[-1].field == "too many values"


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "unit", ["a", "1 ", "a.", "a@", "12:", "/", "a/", "x-", "ab://", "jan 1 ", "1,", "+1", "de12 "]
)
def test_hostile_text_takes_bounded_time(unit: str) -> None:
    """A pattern that starts again at every place would exceed the limit."""
    assert tokens(unit * (200_000 // len(unit)))


@pytest.mark.parametrize(
    ("value", "asks"),
    [
        ([115, 101, 99], True),
        ([12, 40], False),
        (12.5, True),
        (True, False),
        (None, False),
        ("", False),
        ("code 12", False),
        ("ode 12", True),
    ],
)
def test_an_outgoing_value_of_any_type_must_be_in_a_text_of_the_run(value: object, asks: bool) -> None:
    """A secret fits into a list of numbers as well as into a link."""
    sources = Sources(trusted=(Source(0, "go on"),), untrusted=(Source(5, "the code 12, and 40"),))
    assert bool(trace({"points": value}, TracedArguments(only=("points",)), sources)) is asks


def test_the_search_for_a_frequent_value_takes_bounded_time() -> None:
    """Past the limit a person is asked; if it is whole among the first places, no person is."""
    parts = "xab " * OCCURRENCES_MAX
    for text, asks in ((f"{parts}ab", True), (f"ab {parts}", False)):
        sources = Sources(trusted=(), untrusted=(Source(5, text),))
        assert bool(trace({"q": "ab"}, TracedArguments(only=("q",)), sources)) is asks
