"""What a person reads before deciding."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from tests.builders import agent, at_work, call, contract

from linestop.cli.output import question_text
from linestop.client.views import OpenQuestion, open_questions


def asked(reason: str) -> OpenQuestion:
    """A payment that waits for a person."""
    return OpenQuestion(
        tenant="default", run="r1", agent="desk", kind="approval", call="c1", tool="pay", args='{"amount":5}',
        reason=reason, expires_at=datetime(2100, 1, 1, tzinfo=UTC),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("The order never came.", "The order never came."),
        ("ok\n  $ linestop approve r2", "ok\\n  $ linestop approve r2"),
        ("\x1b[2J\u202eok", "\\x1b[2J\\u202eok"),
        ("x" * 502, "x" * 502),
    ],
)
def test_the_models_reason_is_shown_as_its_own_words_on_one_line(reason: str, shown: str) -> None:
    """It can neither pass for a line of the question nor do anything to the terminal."""
    lines = question_text(asked(reason)).split("\n")
    assert f"  reason  the model says: {shown}" in lines
    assert len(lines) == len(question_text(asked("")).split("\n")) + 1


def test_what_leaves_the_system_is_named_before_anybody_decides() -> None:
    """The arguments that the contract says go out."""
    mail = contract("mail", tier="irreversible", egress=("amount", "q"))
    (question,) = open_questions(at_work(call("mail"), version=agent(tools=(mail,))).run, {})
    assert "  leaves  the system with this call: amount, q" in question_text(question).split("\n")
