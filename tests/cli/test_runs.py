"""``run``, ``runs``, ``show``, ``stop``, ``pause`` and ``resume`` against a running system."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.stack import Stack, background_stack, cli, command, shown_option

from linestop.bus.access.credentials import Credential, write_credential
from linestop.cli import main
from linestop.cli.output import printing
from linestop.cli.output.terminal_escape import escape_controls
from linestop.cli.runs import stop_runs
from linestop.client import Client
from linestop.schemas.defaults import Limits
from linestop.schemas.messages import run_of_key

pytestmark = pytest.mark.broker


def waiting(system: Stack) -> dict[str, Any]:
    """A run that waits for an approval: the question as JSON."""
    ran = cli(system, "run", "desk", "pay 5", "--json")
    assert ran.code == 6
    question: dict[str, Any] = ran.json["questions"][0]
    return question


# --- run -------------------------------------------------------------------------------------------------


def test_run_prints_the_answer_on_stdout_and_the_log_on_stderr(system: Stack) -> None:
    """Only the answer is piped on."""
    ran = cli(system, "run", "desk", "say hello")
    assert (ran.code, ran.out) == (0, "Hello.\n")
    assert "validator.opened" in ran.err
    assert "recorder.sealed      completed" in ran.err


def test_run_with_json_prints_the_outcome_as_one_document(system: Stack) -> None:
    """The document has status, answer and cost."""
    ran = cli(system, "run", "desk", "say hello", "--json", "--key", "k1", "--user", "ann")
    assert (ran.code, ran.json["status"], ran.json["answer"], ran.json["key"]) == (0, "completed", "Hello.", "k1")
    again = cli(system, "run", "desk", "say hello", "--json", "--key", "k1", "--user", "ann")
    assert again.json == ran.json


def test_run_reads_the_task_from_stdin(system: Stack) -> None:
    """``-`` stands for the piped input."""
    assert cli(system, "run", "desk", "-", stdin="say hello").out == "Hello.\n"


@pytest.mark.parametrize(
    ("stdin", "sentence"),
    [
        (None, "stdin is closed: give the text as an argument"),
        (b"caf\xe9", "The text is not UTF-8 (byte 3): convert it"),
        (b"x" * 5_000_000, "The text has over 262144 bytes, more than a task may have"),
    ],
)
def test_a_text_that_is_too_long_or_not_utf8_is_refused_before_it_is_sent(
    system: Stack, stdin: bytes | None, sentence: str
) -> None:
    """One sentence, and no run."""
    ran = cli(system, "run", "desk", "-", stdin=stdin)
    assert (ran.code, ran.out) == (2, "")
    assert sentence in ran.err


def test_a_closed_stdin_counts_as_no_terminal(system: Stack) -> None:
    """As with a pipe, a run that waits for a person ends the command."""
    assert cli(system, "run", "desk", "pay 5", stdin=None).code == 6


def test_run_detached_prints_the_runs_id_only(system: Stack) -> None:
    """The id is all that a script needs to come back."""
    ran = cli(system, "run", "desk", "say hello", "--detach")
    assert ran.code == 0
    assert cli(system, "watch", ran.out.strip()).code == 0
    followed = cli(system, "run", "nobody", "say hello").err
    assert followed.count("There is no agent 'nobody'") == 2, "once where it is decided, once at the end"
    refused = cli(system, "run", "nobody", "say hello", "--detach", "--json")
    assert (refused.code, refused.json["status"]) == (3, "refused")


def test_run_that_waits_for_an_approval_exits_6_and_says_how_to_decide(system: Stack) -> None:
    """Without a terminal: the call, its exact arguments and the command to approve it."""
    ran = cli(system, "run", "desk", "pay 5")
    assert (ran.code, ran.out) == (6, "")
    assert 'pay({"amount":5' in ran.err
    proposed = next(each for each in ran.err.splitlines() if "$ linestop approve" in each)
    assert cli(system, *proposed.split()[2:], "--by", "ann").code == 0


def test_run_under_a_key_whose_question_was_answered_does_not_ask_again(system: Stack) -> None:
    """The log is replayed from its beginning, but only open questions are shown."""
    assert cli(system, "run", "desk", "pay 5", "--key", "once").code == 6
    run = cli(system, "approvals", "--json").json[-1]["run"]
    assert cli(system, "approve", run, *shown_option(system.directory, run), "--by", "ann").code == 0
    ran = cli(system, "run", "desk", "pay 5", "--key", "once")
    assert (ran.code, ran.out) == (0, 'Done: {"paid":5}\n')


def test_run_waits_without_a_number_until_the_run_is_over(system: Stack) -> None:
    """``--wait`` is the opposite of ``--detach`` and needs no number either."""
    ran = cli(system, "run", "desk", "say hello", "--wait")
    assert (ran.code, ran.out) == (0, "Hello.\n")


def test_run_gives_up_waiting_with_exit_code_10(system: Stack) -> None:
    """The run is still running, and the error says so."""
    ran = cli(system, "run", "desk", "hang", "--wait", "0.5")
    assert (ran.code, ran.out) == (10, "")
    assert "is still running after" in ran.err
    acme_options = cli(system, "run", "desk", "hang", "--wait", "0.5", "--tenant", "acme")
    assert " --tenant acme` follows it" in acme_options.err


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("run", "nobody", "say hello"), 3, "There is no agent 'nobody'"),
        (("run", "desk", "say hello", "--limit", "cost_max_micros=1"), 5, "over_budget"),
        (("run", "desk", "say hello", "--limit", "nonsense=1"), 3, "no limit named 'nonsense'"),
        (("run", "desk", "say hello", "--limit", "turn_max=1"), 3, "'turn_max'; perhaps 'turns_max' is meant"),
        (("run", "desk", "say hello", "--materal", "letter.txt"), 2, "--material"),
        (("run", "desk", "say hello", "--limit", "cost"), 2, "NAME=VALUE"),
        (("run", "desk", "say hello", "--limit", "turns_max=nan"), 2, "NAME=VALUE"),
        (("run", "desk", "say hello", "--limit", "turns_max=1e999"), 2, "NAME=VALUE"),
        (("run", "desk", "say hello", "--wait", "nan"), 2, "'nan' is not a number of seconds: write --wait=30"),
        (
            ("run", "--wait", "desk", "say hello"),
            2,
            "'desk' is not a number of seconds: write --wait=30, or --wait alone",
        ),
        (("run", "desk", "say hello", "twice"), 2, "unexpected extra argument (twice). See `"),
        (("run", "desk", "say hello", "--scope", "nothing"), 3, "the tool 'nothing'"),
        (("run", "No Agent", "say hello"), 2, "agent 'No Agent'"),
        (("run", "desk"), 2, "TEXT"),
    ],
)
def test_run_exits_with_the_code_of_its_outcome(system: Stack, args: tuple[str, ...], code: int, words: str) -> None:
    """Each way to end has its number, and a sentence on stderr."""
    ran = cli(system, *args)
    assert (ran.code, ran.out) == (code, "")
    assert words in ran.err


def test_a_dry_run_describes_and_does_not_do(system: Stack) -> None:
    """Nothing is paid, and no person is asked."""
    before = len(system.effects.paid)
    ran = cli(system, "run", "desk", "pay 5", "--dry-run")
    assert ran.code == 0
    assert "dry_run" in ran.out
    assert len(system.effects.paid) == before


def test_control_sequences_are_escaped_wherever_they_are_shown(system: Stack) -> None:
    """Colours, C1 controls and text reversal of a model reach a terminal as visible escapes, JSON included."""
    plain = cli(system, "run", "desk", "colours")
    as_json = cli(system, "run", "desk", "colours", "--json")
    shown = cli(system, "show", as_json.json["run"])
    for ran in (plain, as_json, shown):
        assert not {"\x1b", "\x9b", "\u202e"} & set(ran.out + ran.err)
    assert plain.out == "plain \\x1b[31mred\\x1b[0m \\x9b31m \\u202e end\n"
    assert as_json.json["answer"] == "plain \x1b[31mred\x1b[0m \x9b31m \u202e end"


def test_run_at_a_terminal_keeps_waiting_for_a_decision(system: Stack) -> None:
    """A person who can see the question can also answer it, from another terminal."""
    controller, terminal = pty.openpty()
    environment = {**os.environ, "LINESTOP_DIR": str(system.directory)}
    process = subprocess.Popen(
        [sys.executable, "-m", "linestop.cli.main", "run", "desk", "pay 5"],
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    killer = threading.Timer(60, process.kill)
    killer.start()
    try:
        assert process.stderr is not None
        approve = next(each for each in process.stderr if "$ linestop approve" in each)
        assert any("Waiting for a person: decide in another terminal" in each for each in process.stderr)
        assert cli(system, *approve.split()[2:], "--by", "ann").code == 0
        out, _ = process.communicate()
    finally:
        killer.cancel()
        os.close(terminal)
        os.close(controller)
    assert (process.returncode, out) == (0, 'Done: {"paid":5}\n')


@pytest.mark.parametrize(
    ("task", "typed", "answer"),
    [("pay 5", "approve", 'Done: {"paid":5}\n'), ("ask", "red", "The person said red.\n")],
)
def test_run_at_a_terminal_asks_on_the_spot(system: Stack, task: str, typed: str, answer: str) -> None:
    """The person at the terminal decides at the prompt; no digest has to be copied."""
    controller, terminal = pty.openpty()
    environment = {**os.environ, "LINESTOP_DIR": str(system.directory), "COLUMNS": "200"}
    process = subprocess.Popen(
        [sys.executable, "-m", "linestop.cli.main", "run", "desk", task],
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
        env=environment,
    )
    killer = threading.Timer(60, process.kill)
    killer.start()
    os.close(terminal)
    shown = b""
    try:
        while b"later" not in shown.rpartition(b"waits for a person")[2]:
            shown += os.read(controller, 4_096)
        os.write(controller, typed.encode() + b"\n")
        out, _ = process.communicate()
    finally:
        killer.cancel()
        os.close(controller)
    assert (process.returncode, out) == (0, answer)


# --- runs and show ---------------------------------------------------------------------------------------


def test_runs_lists_the_newest_runs(system: Stack) -> None:
    """A table for people, a document for programs."""
    question = waiting(system)
    assert question["run"] in cli(system, "runs").out
    listed = cli(system, "runs", "--json", "--limit", "1").json
    assert [(each["run"], each["status"]) for each in listed] == [(question["run"], "waiting")]
    assert {each["status"] for each in cli(system, "runs", "--open", "--json").json} <= {"waiting", "acting", "paused"}
    assert cli(system, "runs", "--tenant", "somebody", "--json").json == []
    empty = cli(system, "runs", "--tenant", "somebody")
    assert (empty.out, empty.err) == ("", "There are no runs of tenant 'somebody'.\n")
    cli(system, "stop", question["run"], "--why", "enough of it")
    cli(system, "watch", question["run"])
    listed = cli(system, "runs", "--limit", "1").out
    assert "pay 5" in listed
    assert "stopped: enough of it" in listed
    assert cli(system, "runs", "--tenant", "somebody", "--all-tenants", "--json").json != []


def test_show_prints_a_run_from_beginning_to_end(system: Stack) -> None:
    """Header, timeline, calls with their outcomes, cost, holds, and what the run waits for."""
    question = waiting(system)
    shown = cli(system, "show", question["run"])
    for part in (
        "agent    desk",
        "status   waiting",
        "waits for a person to approve pay; since ",
        "cost     $",
        "hold     ",
        "#6 approver.asked",
        "not_started",
        "$ linestop approve",
    ):
        assert part in shown.out
    document = cli(system, "show", question["run"], "--json").json
    assert document["calls"][0]["args"] == question["args"]
    assert document["questions"] == [question]
    assert [(wait["kind"], wait["until"]) for wait in document["waits"]] == [("person", question["expires_at"])]
    assert [entry["n"] for entry in document["entries"]] == list(range(1, len(document["entries"]) + 1))
    cli(system, "approve", question["run"], "--shown", question["shown"], "--by", "ann")
    assert cli(system, "watch", question["run"]).code == 0
    done = cli(system, "show", question["run"])
    assert "status   completed" in done.out
    assert "done" in done.out
    assert done.out.rstrip().endswith('Done: {"paid":5}')


def test_show_of_an_unknown_run_exits_1(system: Stack) -> None:
    """Nothing on stdout, one sentence on stderr."""
    ran = cli(system, "show", "nowhere")
    assert (ran.code, ran.out) == (1, "")
    assert "There is no run 'nowhere'" in ran.err


# --- the line --------------------------------------------------------------------------------------------


def test_stop_prints_a_receipt_and_the_run_exits_4(tmp_path: Path) -> None:
    """The receipt names the event and the open calls; a second stop changes nothing, and says what became of them."""
    with background_stack(tmp_path) as system:
        run = cli(system, "run", "desk", "hang", "--detach").out.strip()
        assert system.portal is not None
        system.portal.call(system.effects.hanging.wait)
        running = cli(system, "show", run).out
        stopped = cli(system, "stop", run, "--why", "enough", "--by", "ann", "--json")
        assert cli(system, "watch", run).code == 4
        again = cli(system, "stop", run)
    assert (stopped.code, stopped.json["by"], stopped.json["why"]) == (0, "ann", "enough")
    assert [start["n"] for start in stopped.json["open"]] == [6]
    assert f"was already stopped: event {stopped.json['n']}, by ann, enough" in again.out
    call = stopped.json["open"][0]["what"]
    assert f"hang ({call}) was started at " in running
    assert re.search(rf"{call}\s+hang\s+open\s+no result yet\s+1", running)
    assert "It is unknown" not in running
    assert again.out.splitlines()[1:] == [f"  failed: hang ({call}, attempt 1, started in event 6)"]


def test_a_run_that_does_not_exist_is_stopped_with_beforehand_only(system: Stack) -> None:
    """A mistyped id is noticed, and the runs that may be meant are named."""
    run = waiting(system)["run"]
    near = run[:-1] + ("0" if run[-1] != "0" else "1")
    for mistyped in ("mistyped", near, run.replace("-", "")):
        ran = cli(system, "stop", mistyped)
        assert (ran.code, ran.out) == (1, "")
        assert f"There is no run '{mistyped}' of tenant 'default', so nothing was stopped" in ran.err
        assert "add `--beforehand`" in ran.err
        assert cli(system, "show", mistyped).code == 1
        if mistyped != "mistyped":
            assert f"the nearest open runs are {run}" in ran.err
    assert "the nearest open runs are last, " in cli(system, "stop", "lst").err
    ran = cli(system, "stop", "--beforehand", "awaited")
    assert ran.code == 0
    assert ran.out.startswith(
        "There was no run 'awaited' of tenant 'default'; a task that arrives for it is refused.\n"
    )
    assert "is stopped beforehand: event 1" in ran.out
    assert cli(system, "stop", "awaited", "--json").json["existed"] is False
    assert "existed" not in cli(system, "stop", run, "--json").json
    assert cli(system, "stop", "Mis typed").code == 2
    assert cli(system, "stop", "--all", "--beforehand").code == 2


def test_a_run_that_was_only_stopped_beforehand_is_not_meant_by_last_or_a_prefix(system: Stack) -> None:
    """Neither while it is open, nor once it is sealed, nor if its full name is the prefix."""
    run = waiting(system)["run"]
    prefix = run[:22]
    stopped_run = prefix + ("0" if run[22] != "0" else "1")

    async def stop_as_any_client(phantom: str) -> None:
        async with Client.connect(system.directory, as_="operator") as client:
            assert not (await client.stop(phantom)).existed

    for other_stopped_run in (stopped_run, prefix):
        anyio.run(stop_as_any_client, other_stopped_run)
        assert cli(system, "show", "last", "--json").json["run"] == run
        assert cli(system, "show", prefix, "--json").json["run"] == run
    assert cli(system, "watch", stopped_run).code == 4
    assert cli(system, "show", stopped_run, "--json").json["run"] == stopped_run
    assert cli(system, "stop", "last", "--json").json["run"] == run


def test_a_fence_after_a_drain_says_that_it_cancelled_the_calls(tmp_path: Path) -> None:
    """Both events are named: from the first nothing started, by the second the rest is cancelled."""
    with background_stack(tmp_path) as system:
        run = cli(system, "run", "desk", "hang", "--detach").out.strip()
        assert system.portal is not None
        system.portal.call(system.effects.hanging.wait)
        drained = cli(system, "stop", run, "--mode", "drain", "--json").json
        call = drained["open"][0]["what"]
        open_line = f"  still open: hang ({call}, attempt 1, started in event 6)"
        assert open_line in cli(system, "stop", run, "--mode", "drain").out.splitlines()
        fenced = cli(system, "stop", run)
    assert "fenced_n" not in drained
    assert f"was already stopped: event {drained['n']}" in fenced.out
    assert f"event {drained['n'] + 1} cancelled the calls that the first stop had let finish" in fenced.out


def test_a_run_that_was_stopped_beforehand_exits_4(system: Stack) -> None:
    """The outcome belongs to no agent, but it is the outcome of the run."""
    key = "stopped-first"
    named = cli(system, "stop", run_of_key("default", key), "--why", "not today", "--beforehand")
    ran = cli(system, "run", "desk", "say hello", "--key", key, "--wait", "20")
    assert named.code == 0
    assert (ran.code, ran.out) == (4, "")
    assert "not today" in ran.err


def test_stop_has_the_modes_that_differ(system: Stack) -> None:
    """Draining lets a call end; there is no third way."""
    run = waiting(system)["run"]
    refused = cli(system, "stop", run, "--mode", "kill")
    assert refused.code == 2
    assert "'kill' is not one of 'fence', 'drain'" in refused.err
    assert cli(system, "stop", run, "--mode", "drain").code == 0
    assert cli(system, "watch", run).code == 4


def test_a_paused_run_continues_when_it_is_resumed(system: Stack) -> None:
    """Both replies name the event; a second pause is refused."""
    run = waiting(system)["run"]
    assert "approver.paused is event" in cli(system, "pause", run, "--why", "lunch").out
    again = cli(system, "pause", run)
    assert (again.code, again.out) == (1, "")
    assert "paused already" in again.err
    assert cli(system, "approve", run, *shown_option(system.directory, run), "--by", "ann").code == 0
    assert cli(system, "resume", run, "--json").json["status"] == "done"
    assert cli(system, "watch", run).code == 0


# --- connecting ------------------------------------------------------------------------------------------


def test_a_missing_state_folder_and_a_missing_broker_have_different_exit_codes(tmp_path: Path) -> None:
    """Exit code 2 if nothing was ever started, 8 if no broker answers."""
    missing = command(tmp_path / "nothing", "runs")
    assert "in LINESTOP_DIR, with a command's --dir, or as the argument of Client.connect" in missing.err
    assert (missing.code, missing.out) == (2, "")
    assert "linestop dev" in missing.err
    write_credential(
        tmp_path / "credentials" / "client.json", Credential(url="nats://127.0.0.1:1", user="client", password="x")
    )
    away = command(tmp_path, "runs")
    assert (away.code, away.out) == (8, "")
    assert "127.0.0.1:1" in away.err
    assert "linestop dev" not in away.err, "an outside broker is not started by `linestop dev`"
    (tmp_path / "port").write_text("1")
    assert "Here `linestop dev` starts it." in command(tmp_path, "runs").err


@pytest.mark.parametrize("words", [("any",), ("last",), ("--all",)])
def test_a_stop_says_that_it_is_not_in_force_while_no_broker_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """The note comes before the last try is over, and the error after it."""
    monkeypatch.setattr(stop_runs, "NOTE_AFTER_S", 0.0)
    monkeypatch.setattr(stop_runs, "CONNECT_FOR_S", 0.3)
    write_credential(
        tmp_path / "credentials" / "operator.json", Credential(url="nats://127.0.0.1:1", user="operator", password="x")
    )
    ran = command(tmp_path, "stop", *words)
    printed = " ".join(ran.err.split())
    assert (ran.code, ran.out) == (8, "")
    assert printed.startswith(f"The broker does not answer. {stop_runs.NOT_STORED_YET} linestop: ")
    assert "no broker answers at nats://127.0.0.1:1 within 0.3 s" in printed


def test_the_directory_may_be_given_as_an_option_or_a_credential_file(system: Stack, tmp_path: Path) -> None:
    """``--dir`` wins over the environment."""
    for where in (system.directory, system.directory / "credentials" / "client.json"):
        assert command(tmp_path, "runs", "--json", "--dir", str(where)).code == 0


def test_another_broker_may_be_named_in_the_project(
    system: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``nats.url`` counts for commands as it does for processes; the environment wins over it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(system.directory / "credentials", tmp_path / "state" / "credentials")
    (tmp_path / "linestop.toml").write_text('dir = "state"\n[nats]\nurl = "nats://127.0.0.1:1"')
    monkeypatch.setattr(stop_runs, "CONNECT_FOR_S", 0.1)
    for words in (("runs",), ("stop", "any"), ("verify", "any")):
        away = command(tmp_path / "state", *words)
        assert (away.code, away.out) == (8, "")
        assert "127.0.0.1:1" in away.err
    monkeypatch.setenv("LINESTOP_NATS", system.server.url)
    assert command(tmp_path / "state", "runs", "--json").code == 0


def test_a_directory_that_is_not_the_projects_names_its_own_broker(
    system: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The credential of one installation is not used to the broker of another."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "linestop.toml").write_text('[nats]\nurl = "nats://127.0.0.1:1"')
    own = tmp_path / ".linestop"
    credential = own / "credentials" / "client.json"
    write_credential(credential, Credential(url=system.server.url, user="client", password="x"))
    monkeypatch.delenv("LINESTOP_DIR", raising=False)
    for where, code in (
        (system.directory, 0),
        (system.directory / "credentials" / "client.json", 0),
        (Path(".linestop"), 8),
        (credential, 8),
    ):
        assert main.run(["runs", "--json", "--dir", str(where)]) == code, where


def test_the_state_folder_and_the_tenant_of_the_project_count(
    system: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless an option or the environment names others."""
    name = cli(system, "run", "desk", "say hello", "--tenant", "shop", "--json").json["run"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "linestop.toml").write_text(f'dir = "{system.directory}"\ntenant = "shop"')

    def runs(*words: str) -> list[str]:
        assert main.run(["runs", "--json", *words]) == 0
        return [each["run"] for each in json.loads(capsys.readouterr().out)]

    assert runs() == [name]
    assert runs("--tenant", "none") == []
    monkeypatch.setenv("LINESTOP_TENANT", "none")
    assert runs() == []


def test_another_broker_may_be_named_in_the_environment(system: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """``LINESTOP_NATS`` counts for commands as it does for processes, with the same credentials."""
    monkeypatch.setenv("LINESTOP_NATS", "nats://127.0.0.1:1")
    away = command(system.directory, "runs")
    assert (away.code, away.out) == (8, "")
    assert "127.0.0.1:1" in away.err
    monkeypatch.setenv("LINESTOP_NATS", "garbage")
    bad = command(system.directory, "runs")
    assert (bad.code, bad.out) == (2, "")
    assert "LINESTOP_NATS: 'garbage' is not the address of a broker" in bad.err
    monkeypatch.setenv("LINESTOP_NATS", system.server.url)
    assert command(system.directory, "runs", "--json").code == 0


# --- words -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("plain ü 漢", "plain ü 漢"),
        ("a\x1b]0;title\x07b", "a\\x1b]0;title\\x07b"),
        ("a\rb\x7f\x85", "a\\rb\\x7f\\x85"),
        ("\u202eabc\u2066\u200b", "\\u202eabc\\u2066\\u200b"),
        ("two\nlines\t", "two\\nlines\\t"),
        ("\ud800", "\\ud800"),
    ],
)
def test_control_characters_are_escaped(raw: str, shown: str) -> None:
    """Letters of all scripts pass; characters that move the cursor, hide text or control the terminal do not."""
    assert escape_controls(raw) == shown
    assert escape_controls("a\n\tb", block=True) == "a\n\tb"


@pytest.mark.parametrize("width", [40, 80, 100, 160])
def test_an_id_is_never_broken_however_narrow_the_screen(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ids are there to be copied; where a table has no room for them each row is a block of its own."""
    monkeypatch.setattr(printing, "WIDTH_PIPED", width)
    run, call = "k-" + "0123456789" * 4, "call_" + "ab" * 12
    printing.print_table(("run", "call", "cost", "task"), [(run, call, "$0.10", "two words " * 9)], wrap=("task",))
    shown = capsys.readouterr().out
    assert run in shown
    assert call in shown
    assert "$0.10" in shown
    assert shown.count("words") == 9
    table = "───" in shown
    assert table == (width == 160)
    assert max(len(line) for line in shown.splitlines() if "words" not in line) <= max(width, len(run))


def test_json_escapes_keep_their_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    """Characters that are escaped for the terminal are read back unchanged."""
    value = {"text": "\x1b\x9b\u202e\u2028ü"}
    printing.print_json(value)
    printed = capsys.readouterr().out
    assert json.loads(printed) == value
    assert printed == '{"text":"\\u001b\\u009b\\u202e\\u2028ü"}\n'


def test_an_approval_that_expires_is_shown_as_such(system: Stack) -> None:
    """A run whose question expires continues without the call, and says so."""
    assert system.portal is not None
    system.portal.call(lambda: system.deploy(limits=Limits(approval_expires_s=1, wall_s=600)))
    try:
        run = waiting(system)["run"]
        assert "Nobody answered in time" in cli(system, "watch", run).out
    finally:
        system.portal.call(system.deploy)


def test_a_run_is_named_by_the_beginning_of_its_id_or_as_the_last(system: Stack) -> None:
    """In every command with RUN; a name that a client chose is never completed."""
    run = cli(system, "run", "desk", "say hello", "--detach").out.strip()
    assert cli(system, "watch", run[:-4]).code == 0
    assert cli(system, "show", run[:-2], "--json").json["run"] == run
    assert cli(system, "show", "last", "--json").json["run"] == run
    assert cli(system, "verify", "last").code == 0
    several = cli(system, "show", run[:4])
    assert several.code in {0, 2}
    assert "write more of the id" in several.err or several.code == 0
    two = [cli(system, "run", "desk", "say hello", "--detach", "--tenant", "two").out.strip() for _ in range(2)]
    listed = cli(system, "show", two[0][:4], "--tenant", "two")
    assert f"2 runs begin with '{two[0][:4]}': {', '.join(sorted(two))}; write more" in " ".join(listed.err.split())
    assert "There is no run 'ffffffff'" in cli(system, "show", "ffffffff").err
    chosen = cli(system, "run", "desk", "say hello", "--json", "--key", "order-10").json["run"]
    assert cli(system, "show", chosen[:12], "--json").json["run"] == chosen
