"""The values that a summary must not lose."""

from __future__ import annotations

import pytest
from tests.builders import TASK, Story, at_work, call, reply

from linestop.actors.model_turn.exact_values import PER_RESULT_MAX, VALUES_MAX, covered_texts, exact_values
from linestop.schemas.tool_contracts import ToolError, ToolResult


def with_results(*values: object) -> Story:
    """A run in which one call of ``look`` after another gave these values."""
    story = Story().open_run().run_until_idle()
    for at, value in enumerate(values):
        story.finish_model(reply(call("look", f'{{"q":"{at}"}}', id=f"c{at}"))).finish_tools(
            **{f"c{at}": ToolResult(outcome="succeeded", value=value)}
        )
    return story


def summary_values(story: Story) -> list[str]:
    """The values that would be listed if all of the run were summarised."""
    return [value.value for value in exact_values(covered_texts(story.run, story.run.proposals[-1].n))]


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ({"id": "A1-77", "n": 2, "sum_cents": 2500, "total": 25.5}, ["A1-77", "2500", "25.5"]),
        ({"at": "2024-05-01T10:00:00Z", "due": "2024-06-30"}, ["2024-05-01T10:00:00Z", "2024-06-30"]),
        ("Paid 1,234.50 EUR and $12.00 for INV-2024-001.", ["1,234.50 EUR", "$12.00", "INV-2024-001"]),
        ([100, 250, -17.25], ["100", "250", "-17.25"]),
        ({"to": "eve@example.org"}, ["eve@example.org"]),
        ("line\n9981", ["9981"]),
        ("单号9981已付款", ["9981"]),
        ("nothing to be kept, 7 of 12", []),
        ("x" * 10_000 + "1", []),
    ],
)
def test_identifiers_amounts_and_dates_are_listed_as_they_are_written(value: object, found: list[str]) -> None:
    """In JSON each value by itself, in a text each separate token; words and small counts are not listed."""
    assert summary_values(with_results(value)) == found


def test_a_value_is_listed_once_with_its_event() -> None:
    """And not at all if it appears in the task, which is never summarised."""
    assert "4711" in TASK
    story = with_results({"order": 4711, "ref": "R-100"}, {"ref": "R-100"}, {"ref": "R-200"})
    values = exact_values(covered_texts(story.run, story.run.proposals[-1].n))
    events = [story.run.calls[name].outcome_n for name in ("c1", "c2")]
    assert [(value.value, value.n) for value in values] == [("R-100", events[0]), ("R-200", events[1])]


def test_values_that_stay_in_the_prompt_are_not_listed_again() -> None:
    """Only results that the summary covers are searched."""
    story = with_results("R-100", "R-200")
    assert [value.value for value in exact_values(covered_texts(story.run, story.run.proposals[0].n))] == ["R-100"]


def test_a_failure_message_yields_no_values() -> None:
    """Its numbers are codes."""
    failed = ToolResult(outcome="failed", error=ToolError(type="permanent", message="error 50012"))
    assert summary_values(at_work(call("look")).finish_tools(look=failed)) == []


def test_the_values_are_bounded_and_the_newest_remain() -> None:
    """One long table does not take all places, and the total is limited."""
    story = with_results(*([f"R-{at}{row:03}" for row in range(50)] for at in range(6)))
    values = exact_values(covered_texts(story.run, story.run.proposals[-1].n))
    assert len(values) == VALUES_MAX
    assert [value.value for value in values[-PER_RESULT_MAX:]] == [f"R-5{row:03}" for row in range(PER_RESULT_MAX)]
    assert values[0].value == "R-2000"
