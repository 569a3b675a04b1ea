"""``approvals``, ``approve``, ``deny``, ``answer`` and ``resolve`` against a running system."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.stack import Stack, background_stack, cli, person_with_key, shown_option

pytestmark = pytest.mark.broker


def ask(system: Stack, text: str) -> dict[str, Any]:
    """Give the agent a task that comes to wait; the question as JSON."""
    ran = cli(system, "run", "desk", text, "--json")
    assert ran.code == 6, ran.err
    question: dict[str, Any] = ran.json["questions"][0]
    return question


def test_approvals_lists_exact_arguments_and_says_when_there_are_none(tmp_path: Path) -> None:
    """The text shows the full call, however long it is; JSON has everything."""
    with background_stack(tmp_path) as system:
        nothing = cli(system, "approvals")
        assert (nothing.code, nothing.out) == (0, "")
        assert "Nothing waits" in nothing.err
        assert cli(system, "approvals", "--json").json == []
        question = ask(system, "pay 5")
        table = cli(system, "approvals").out
        assert cli(system, "approvals", "--json").json == [question]
        assert cli(system, "approvals", "--tenant", "other", "--json").json == []
        assert cli(system, "approvals", "--tenant", "other", "--all-tenants", "--json").json == [question]
    assert question["run"] in table
    column = "".join(row[row.find("pay(") if "pay(" in row else 0 :] for row in table.splitlines())
    assert '{"amount":5,"note":"\\u001b]0;owned\\u0007"' in column
    assert {"args", "args_sha256", "contract_digest", "tier", "rule", "expires_at"} <= set(question)


def test_approve_does_the_call_and_deny_does_not(system: Stack) -> None:
    """Each is one decision, whose reason stays in the log."""
    yes, no = ask(system, "pay 5"), ask(system, "pay 5")
    approved = cli(system, "approve", yes["run"], yes["call"], "--shown", yes["shown"], "--by", "ann", "--why", "small")
    denied = cli(system, "deny", no["run"], no["call"], "--by", "bob", "--why", "too much", "--json")
    assert (approved.code, denied.code, denied.json["status"]) == (0, 0, "done")
    assert "approver.granted is event" in approved.out
    assert "succeeded" in cli(system, "watch", yes["run"]).out
    ended = cli(system, "watch", no["run"])
    assert ended.code == 0
    assert "pay by bob: too much" in ended.out
    assert system.effects.paid == [5]


def test_approve_with_edit_approves_other_arguments(system: Stack, tmp_path: Path) -> None:
    """New arguments come as JSON or from a file; anything else is refused and the question stays open."""
    question = ask(system, "pay 5")
    run, call = question["run"], question["call"]
    file = tmp_path / "args.json"
    file.write_text('{"amount": 2}')
    (tmp_path / "huge.json").write_text("[" * 300_000)
    for wrong, sentence in (
        ("[1]", "JSON object"),
        ("{", "read as JSON"),
        ('{"amount": 1, "amount": 9}', '"amount" is given twice'),
        ("@/nowhere", "cannot be read"),
        ("[" * 90_000, "cannot be read as JSON"),
        (f"@{tmp_path / 'huge.json'}", "has over 262144 bytes"),
    ):
        ran = cli(system, "approve", run, call, "--shown", question["shown"], "--edit", wrong)
        assert ran.code == 2
        assert sentence in ran.err
    shown = ("--shown", question["shown"])
    rejected_edit = cli(system, "approve", run, call, *shown, "--edit", '{"amount": "2"}', "--by", "ann")
    assert rejected_edit.code == 1
    assert 'cannot be made with these arguments: $.amount: "2" is not of type' in rejected_edit.err
    still = next(each for each in cli(system, "approvals", "--json").json if each["run"] == run)
    assert still["args"] == question["args"]
    assert cli(system, "approve", run, call, *shown, "--edit", str(file), "--by", "ann").code == 0
    assert cli(system, "watch", run).code == 0
    assert system.effects.paid[-1] == 2


def test_a_decision_about_an_unknown_call_lists_the_open_ones(system: Stack) -> None:
    """For an unknown call and for a run without a question: exit code 1, and how to list the open ones."""
    run = ask(system, "pay 5")["run"]
    wrong = cli(system, "approve", run, "c9", "--shown", "0" * 12)
    assert wrong.code == 1
    assert f"linestop show {run}" in wrong.err
    cli(system, "deny", run)
    assert cli(system, "watch", run).code == 0
    nothing = cli(system, "approve", run, "--shown", "0" * 12)
    assert nothing.code == 1
    assert f"Run '{run}' is over and asks no question now; `linestop approvals` lists" in nothing.err


def test_answer_answers_a_question_with_text_or_json(system: Stack) -> None:
    """The call may be left out if the run has only one open question."""
    first, second = ask(system, "ask"), ask(system, "ask")
    assert cli(system, "answer", first["run"], "blue").code == 0
    assert "blue" in cli(system, "watch", first["run"]).out
    answered = cli(system, "answer", second["run"], second["call"], '{"colour": "red"}', "--json-answer", "--by", "ann")
    assert answered.code == 0
    assert '{"colour":"red"}' in cli(system, "watch", second["run"]).out
    assert cli(system, "answer", second["run"], "a", "b", "c").code == 2


def test_resolve_settles_a_call_with_an_unknown_outcome(system: Stack) -> None:
    """Done with a result, or the end of the run; saying nothing is a usage error."""
    first, second = ask(system, "doubt"), ask(system, "doubt")
    assert first["kind"] == "doubt"
    assert cli(system, "resolve", first["run"]).code == 2
    assert cli(system, "resolve", first["run"], "--retry", "--result", "1").code == 2
    assert (
        cli(
            system,
            "resolve",
            first["run"],
            first["call"],
            "--shown",
            first["shown"],
            "--done",
            "--result",
            '{"seen": true}',
        ).code
        == 0
    )
    assert "seen" in cli(system, "watch", first["run"]).out
    assert cli(system, "resolve", second["run"], "--shown", second["shown"], "--stop", "--why", "cannot know").code == 0


def test_a_decision_of_the_wrong_kind_is_refused_before_the_person_is_prompted(system: Stack) -> None:
    """No person confirms a decision that needs another command; that command is named in full."""
    doubt, approval = ask(system, "doubt"), ask(system, "pay 5")
    for wrong, question, right in (
        (("approve",), doubt, "resolve"),
        (("resolve", "--done"), approval, "approve"),
    ):
        ran = cli(system, wrong[0], question["run"], *wrong[1:])
        assert ran.code == 1
        assert f"`linestop {wrong[0]}` cannot decide that" in ran.err
        assert f"`linestop {right} {question['run']} {question['call']} --shown {question['shown']}" in ran.err


def test_the_effect_key_is_shown_for_a_call_with_an_unknown_outcome(system: Stack) -> None:
    """In the question about a call, and for a call with an unknown outcome, also once the run is over."""
    doubt, approval = ask(system, "doubt"), ask(system, "pay 5")
    printed = cli(system, "approvals").out
    for question in (doubt, approval):
        run = question["run"]
        key = cli(system, "show", run, "--json").json["calls"][0]["effect_key"]
        assert key
        assert question["effect_key"] == key
        assert key in printed
        assert key in cli(system, "show", run).out
    key = doubt["effect_key"]
    assert cli(system, "stop", doubt["run"]).code == 0
    assert cli(system, "watch", doubt["run"]).code == 4
    for words in ((), (doubt["call"],)):
        repeated = cli(system, "resolve", doubt["run"], *words, "--done", "--shown", doubt["shown"])
        assert repeated.code == 1
        assert "no longer be resolved. Look up by its key" in repeated.err
        assert key in repeated.err
    shown = cli(system, "show", doubt["run"]).out
    assert f"It is unknown whether doubtful ({doubt['call']}) took effect; its key is {key}" in shown
    assert re.search(rf"{doubt['call']}\s+doubtful\s+over\s+unknown\s+1", shown)


def at_a_terminal(system: Stack, *args: str, typed_ahead: str, prompt: str, reply: str) -> tuple[int, str]:
    """Run a command at a terminal where something was typed before it asks; its exit code and the screen."""
    controller, terminal = pty.openpty()
    os.write(controller, typed_ahead.encode())
    environment = {**os.environ, "LINESTOP_DIR": str(system.directory), "COLUMNS": "300"}
    process = subprocess.Popen(
        [sys.executable, "-m", "linestop.cli.main", *args],
        stdin=terminal,
        stdout=subprocess.DEVNULL,
        stderr=terminal,
        env=environment,
    )
    killer = threading.Timer(60, process.kill)
    killer.start()
    os.close(terminal)
    screen = b""
    try:
        while prompt not in screen.decode(errors="replace"):
            screen += os.read(controller, 4_096)
        os.write(controller, reply.encode())
        return process.wait(), screen.decode(errors="replace")
    finally:
        killer.cancel()
        os.close(controller)


def test_input_typed_before_the_question_does_not_answer_it(system: Stack) -> None:
    """A key hit while the question was being fetched agrees to nothing, with `approve`, `resolve` and `run`."""
    approval, doubt = ask(system, "pay 5"), ask(system, "doubt")
    before = len(system.effects.paid)
    for words in (("approve", approval["run"]), ("resolve", doubt["run"], "--done")):
        code, screen = at_a_terminal(system, *words, typed_ahead="y\n", prompt="[y/N]: ", reply="n\n")
        assert code == 2, screen
    code, screen = at_a_terminal(
        system, "run", "desk", "pay 5", typed_ahead="approve\n", prompt="or later? [later] ", reply="deny\n"
    )
    assert code == 0, screen
    assert len(system.effects.paid) == before
    assert cli(system, "show", approval["run"], "--json").json["status"] == "waiting"
    assert cli(system, "show", doubt["run"], "--json").json["status"] == "waiting"


def test_a_decision_is_signed_with_the_key_of_the_named_person(tmp_path: Path) -> None:
    """With people configured, only a name with a key may decide."""
    with background_stack(tmp_path, people={"ann": person_with_key(tmp_path, "ann")}) as system:
        run = ask(system, "pay 5")["run"]
        shown = shown_option(system.directory, run)
        unsigned = cli(system, "approve", run, *shown, "--by", "bob")
        assert unsigned.code == 1
        assert "must be signed" in unsigned.err
        assert cli(system, "approve", run, *shown, "--by", "ann").code == 0
        assert cli(system, "watch", run).code == 0
        assert system.effects.paid == [5]


def test_a_decision_names_what_was_shown(system: Stack) -> None:
    """A call that was edited by another person after it was shown is not approved."""
    question = ask(system, "pay 5")
    run, call = question["run"], question["call"]
    printed = next(each for each in cli(system, "approvals").out.splitlines() if f"approve {run}" in each)
    assert printed.strip() == f"$ linestop approve {run} {call} --shown {question['shown']}"
    before = len(system.effects.paid)
    for shown, code, sentence in (
        ((), 2, "add `--shown DIGEST`, as `linestop approvals` prints it"),
        (("--shown", "3f9"), 2, "'3f9' is too short for a digest"),
        (
            ("--shown", "3f9c1a3f9c1a"),
            1,
            f"is no longer the one shown as 3f9c1a3f9c1a. It now asks about {question['tool']}(",
        ),
    ):
        ran = cli(system, "approve", run, *shown, "--by", "ann")
        assert (ran.code, sentence in ran.err) == (code, True), ran
    assert f"--shown {question['shown']}" in ran.err
    assert len(system.effects.paid) == before
    assert cli(system, *printed.split()[2:], "--by", "ann").code == 0


def test_an_event_is_reported_by_its_name(system: Stack) -> None:
    """The reporter knows the event, not the waiting call; another event is refused with the name of the awaited one."""
    question = ask(system, "await the money")
    run = question["run"]
    printed = cli(system, "show", run).out
    assert f"$ linestop event {run} paid --data JSON" in printed
    assert "waits for an event: paid" in printed
    assert all(each["run"] != run for each in cli(system, "approvals", "--json").json)
    assert cli(system, "event", run, "shipped").code == 0
    assert cli(system, "event", run, "paid", "--data", '{"cents": 4250}').code == 0
    assert "4250" in cli(system, "watch", run).out
    assert cli(system, "event", run, "paid").code == 1
