"""The question that a person reads before deciding."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from tests.builders import agent, at_work, call, contract

from linestop.cli.approval_questions import question_text
from linestop.cli.output import printing, wording
from linestop.cli.output.terminal_escape import wrap_lines
from linestop.client.result_types import OpenQuestion, open_questions


def asked(reason: str) -> OpenQuestion:
    """A payment that waits for a person."""
    return OpenQuestion(
        tenant="default",
        run="r1",
        agent="desk",
        kind="approval",
        call="c1",
        tool="pay",
        args='{"amount":5}',
        reason=reason,
        expires_at=datetime(2100, 1, 1, tzinfo=UTC),
    )


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


def test_egress_arguments_are_named_before_a_decision() -> None:
    """The arguments that leave the system by the contract."""
    mail = contract("mail", tier="irreversible", egress=("amount", "q"))
    (question,) = open_questions(at_work(call("mail"), version=agent(tools=(mail,))).run, {})
    assert "  leaves  the system with this call: amount, q" in question_text(question).split("\n")


def test_a_question_about_an_unknown_outcome_names_its_command() -> None:
    """It must not look like a call that waits for an approval."""
    doubt = msgspec.structs.replace(asked(""), kind="doubt", rule="unknown", task="Pay the bill.", shown="3f9c1a")
    lines = question_text(doubt).split("\n")
    assert "the outcome of a call is unknown" in lines[0]
    assert "  task    Pay the bill." in lines
    assert "  $ linestop resolve r1 c1 --shown 3f9c1a --done" in lines


SENTENCE = "The run 0123456789abcdef is over: `linestop approvals --all-tenants` lists what else waits for people."


def test_a_sentence_is_broken_between_words_and_never_inside_a_command() -> None:
    """Ids and commands are there to be copied."""
    lines = wrap_lines(SENTENCE, 40).split("\n")
    assert " ".join(lines) == SENTENCE
    assert max(map(len, lines)) <= 40
    assert "`linestop approvals --all-tenants` lists" in lines
    assert wrap_lines("  $ linestop deny r1 c1 --why REASON", 20) == "  $ linestop deny r1 c1 --why REASON"
    assert wrap_lines("  value   aaaa bbbb cccc", 21) == "  value   aaaa bbbb\n          cccc"


def test_output_to_a_pipe_stays_on_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Programs read lines; only a terminal has a width."""
    monkeypatch.setenv("COLUMNS", "40")
    printing.print_text(SENTENCE)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    printing.print_text(SENTENCE)
    whole, *broken = capsys.readouterr().out.splitlines()
    assert whole == SENTENCE
    assert len(broken) == 3


def test_a_line_break_in_a_reason_stays_in_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The author of a stop cannot forge a line of the run's log."""
    printing.print_text("stopped  by eve: enough\n  7 approver.granted pay by ann")
    printing.note("x\ny")
    assert capsys.readouterr() == ("stopped  by eve: enough\\n  7 approver.granted pay by ann\n", "x\\ny\n")


def test_long_arguments_are_shown_by_their_ends_and_where_the_rest_is() -> None:
    """The commands must be visible without scrolling through 300 kB."""
    question = msgspec.structs.replace(asked(""), args='{"text":"' + "x" * 300_000 + '","to":"ann"}')
    text = question_text(question)
    assert len(text) < 10_000
    assert "more characters: `linestop show r1 --json`" in text
    assert text.count('"to":"ann"}') == 1


@pytest.mark.parametrize(
    ("left", "shown"),
    [
        (timedelta(seconds=-1), "expired"),
        (timedelta(seconds=0.9), "0 s"),
        (timedelta(seconds=119.5), "119 s"),
        (timedelta(minutes=59.5), "59 min"),
        (timedelta(hours=47.5), "47 h"),
        (timedelta(days=29.99), "29 d"),
    ],
)
def test_a_long_time_left_is_in_hours_or_days(left: timedelta, shown: str) -> None:
    """Thirty days are not 43,199 minutes."""
    assert wording.time_left(datetime.now(UTC) + left) == shown
