"""``run``, ``runs``, ``show``, ``stop``, ``pause`` and ``resume`` against the whole of linestop."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.stack import Ran, Stack, background_stack, command, seen

from linestop.bus.credentials import Credential, write_credential
from linestop.bus.idempotency_keys import run_of_key
from linestop.cli import main, output
from linestop.cli.plain import clean
from linestop.client import Client
from linestop.schemas.defaults import Limits

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stack]:
    """Everything, running in another thread."""
    with background_stack(tmp_path_factory.mktemp("line")) as running:
        yield running


def cli(line: Stack, *args: str, stdin: str | bytes | None = "") -> Ran:
    """Run a command on the running whole."""
    return command(line.directory, *args, stdin=stdin)


def waiting(line: Stack) -> dict[str, Any]:
    """A run that waits for an approval: the question as JSON."""
    ran = cli(line, "run", "desk", "pay 5", "--json")
    assert ran.code == 6
    question: dict[str, Any] = ran.json["questions"][0]
    return question


# --- run -------------------------------------------------------------------------------------------------


def test_run_prints_the_answer_on_stdout_and_the_log_on_stderr(line: Stack) -> None:
    """What is piped on is the answer alone."""
    ran = cli(line, "run", "desk", "say hello")
    assert (ran.code, ran.out) == (0, "Hello.\n")
    assert "validator.opened" in ran.err
    assert "recorder.sealed      completed" in ran.err


def test_run_with_json_prints_the_outcome_as_one_document(line: Stack) -> None:
    """The document has status, answer and cost."""
    ran = cli(line, "run", "desk", "say hello", "--json", "--key", "k1", "--user", "ann")
    assert (ran.code, ran.json["status"], ran.json["answer"], ran.json["key"]) == (0, "completed", "Hello.", "k1")
    again = cli(line, "run", "desk", "say hello", "--json", "--key", "k1", "--user", "ann")
    assert again.json == ran.json


def test_run_reads_the_task_from_stdin(line: Stack) -> None:
    """``-`` stands for what is piped in."""
    assert cli(line, "run", "desk", "-", stdin="say hello").out == "Hello.\n"


@pytest.mark.parametrize(
    ("stdin", "said"),
    [
        (None, "stdin is closed: give the text as an argument"),
        (b"caf\xe9", "The text is not UTF-8 (byte 3): convert it"),
        (b"x" * 5_000_000, "The text has over 262144 bytes, more than a task may have"),
    ],
)
def test_a_text_that_cannot_be_sent_is_refused_before_it_is(line: Stack, stdin: bytes | None, said: str) -> None:
    """One sentence, and no run."""
    ran = cli(line, "run", "desk", "-", stdin=stdin)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err


def test_a_closed_stdin_is_nobody_at_a_terminal(line: Stack) -> None:
    """As with a pipe, a run that waits for a person ends the command."""
    assert cli(line, "run", "desk", "pay 5", stdin=None).code == 6


def test_run_detached_prints_the_runs_id_only(line: Stack) -> None:
    """The id is all that a script needs to come back."""
    ran = cli(line, "run", "desk", "say hello", "--detach")
    assert ran.code == 0
    assert cli(line, "watch", ran.out.strip()).code == 0
    refused = cli(line, "run", "nobody", "say hello", "--detach", "--json")
    assert (refused.code, refused.json["status"]) == (3, "refused")


def test_run_that_waits_for_an_approval_exits_6_and_says_how_to_decide(line: Stack) -> None:
    """Nobody sits at a terminal: the call, its exact arguments and the command to approve it."""
    ran = cli(line, "run", "desk", "pay 5")
    assert (ran.code, ran.out) == (6, "")
    assert 'pay({"amount":5' in ran.err
    proposed = next(each for each in ran.err.splitlines() if "$ linestop approve" in each)
    assert cli(line, *proposed.split()[2:], "--by", "ann").code == 0


def test_run_under_a_key_whose_question_was_answered_does_not_ask_again(line: Stack) -> None:
    """The log is replayed from its beginning, but only what is open now is a question."""
    assert cli(line, "run", "desk", "pay 5", "--key", "once").code == 6
    run = cli(line, "approvals", "--json").json[-1]["run"]
    assert cli(line, "approve", run, *seen(line.directory, run), "--by", "ann").code == 0
    ran = cli(line, "run", "desk", "pay 5", "--key", "once")
    assert (ran.code, ran.out) == (0, 'Done: {"paid":5}\n')


def test_run_waits_without_a_number_until_the_run_is_over(line: Stack) -> None:
    """``--wait`` is the opposite of ``--detach`` and stands alone like it."""
    ran = cli(line, "run", "desk", "say hello", "--wait")
    assert (ran.code, ran.out) == (0, "Hello.\n")


def test_run_gives_up_waiting_with_exit_code_10(line: Stack) -> None:
    """The run goes on, and the error says so."""
    ran = cli(line, "run", "desk", "hang", "--wait", "0.5")
    assert (ran.code, ran.out) == (10, "")
    assert "it goes on" in ran.err
    of_acme = cli(line, "run", "desk", "hang", "--wait", "0.5", "--tenant", "acme")
    assert " --tenant acme` follows it" in of_acme.err


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("run", "nobody", "say hello"), 3, "There is no agent 'nobody'"),
        (("run", "desk", "say hello", "--limit", "cost_max_micros=1"), 5, "over_budget"),
        (("run", "desk", "say hello", "--limit", "nonsense=1"), 3, "no limit named 'nonsense'"),
        (("run", "desk", "say hello", "--limit", "turn_max=1"), 3, "'turn_max'; perhaps 'turns_max' is meant"),
        (("run", "desk", "say hello", "--materal", "letter.txt"), 2, "--material"),
        (("run", "desk", "say hello", "--limit", "cost"), 2, "NAME=VALUE"),
        (("run", "desk", "say hello", "--limit", "turns_max=nan"), 2, "NAME=VALUE"),
        (("run", "desk", "say hello", "--limit", "turns_max=1e999"), 2, "NAME=VALUE"),
        (("run", "desk", "say hello", "--wait", "nan"), 2, "'nan' is no number of seconds: write --wait=30"),
        (("run", "--wait", "desk", "say hello"), 2, "'desk' is no number of seconds: write --wait=30, or --wait alone"),
        (("run", "desk", "say hello", "twice"), 2, "unexpected extra argument (twice). See `"),
        (("run", "desk", "say hello", "--scope", "nothing"), 3, "the tool 'nothing'"),
        (("run", "No Agent", "say hello"), 2, "agent 'No Agent'"),
        (("run", "desk"), 2, "TEXT"),
    ],
)
def test_run_exits_with_the_code_of_what_happened(line: Stack, args: tuple[str, ...], code: int, said: str) -> None:
    """Each way to end has its number, and a sentence on stderr."""
    ran = cli(line, *args)
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.err


def test_a_dry_run_describes_and_does_not_do(line: Stack) -> None:
    """Nothing is paid, and nobody is asked."""
    before = len(line.effects.paid)
    ran = cli(line, "run", "desk", "pay 5", "--dry-run")
    assert ran.code == 0
    assert "dry_run" in ran.out
    assert len(line.effects.paid) == before


def test_what_a_terminal_would_obey_is_escaped_wherever_it_is_shown(line: Stack) -> None:
    """Colours, C1 controls and text reversal of a model reach a terminal as visible escapes, JSON included."""
    plain = cli(line, "run", "desk", "colours")
    as_json = cli(line, "run", "desk", "colours", "--json")
    shown = cli(line, "show", as_json.json["run"])
    for ran in (plain, as_json, shown):
        assert not {"\x1b", "\x9b", "\u202e"} & set(ran.out + ran.err)
    assert plain.out == "plain \\x1b[31mred\\x1b[0m \\x9b31m \\u202e end\n"
    assert as_json.json["answer"] == "plain \x1b[31mred\x1b[0m \x9b31m \u202e end"


def test_run_at_a_terminal_keeps_waiting_until_somebody_decides(line: Stack) -> None:
    """A person who can see the question can also answer it, from another terminal."""
    controller, terminal = pty.openpty()
    environment = {**os.environ, "LINESTOP_DIR": str(line.directory)}
    process = subprocess.Popen(
        [sys.executable, "-m", "linestop.cli.main", "run", "desk", "pay 5"],
        stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    killer = threading.Timer(60, process.kill)
    killer.start()
    try:
        assert process.stderr is not None
        approve = next(each for each in process.stderr if "$ linestop approve" in each)
        assert any("Waiting for a person: decide in another terminal" in each for each in process.stderr)
        assert cli(line, *approve.split()[2:], "--by", "ann").code == 0
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
def test_run_at_a_terminal_asks_on_the_spot(line: Stack, task: str, typed: str, answer: str) -> None:
    """Whoever sits there decides where the question stands; no digest has to be copied."""
    controller, terminal = pty.openpty()
    environment = {**os.environ, "LINESTOP_DIR": str(line.directory), "COLUMNS": "200"}
    process = subprocess.Popen(
        [sys.executable, "-m", "linestop.cli.main", "run", "desk", task],
        stdin=terminal, stdout=subprocess.PIPE, stderr=terminal, text=True, env=environment,
    )  # fmt: skip
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


def test_runs_lists_what_there_is(line: Stack) -> None:
    """A table for people, a document for programs."""
    question = waiting(line)
    assert question["run"] in cli(line, "runs").out
    listed = cli(line, "runs", "--json", "--limit", "1").json
    assert [(each["run"], each["status"]) for each in listed] == [(question["run"], "waiting")]
    assert {each["status"] for each in cli(line, "runs", "--open", "--json").json} <= {"waiting", "acting", "paused"}
    assert cli(line, "runs", "--tenant", "somebody", "--json").json == []
    empty = cli(line, "runs", "--tenant", "somebody")
    assert (empty.out, empty.err) == ("", "There are no runs of tenant 'somebody'.\n")
    cli(line, "stop", question["run"], "--why", "enough of it")
    cli(line, "watch", question["run"])
    listed = cli(line, "runs", "--limit", "1").out
    assert "pay 5" in listed
    assert "stopped: enough of it" in listed
    assert cli(line, "runs", "--tenant", "somebody", "--all-tenants", "--json").json != []


def test_show_tells_a_run_from_beginning_to_end(line: Stack) -> None:
    """Header, timeline, calls with their fates, cost and holds; and what it waits for."""
    question = waiting(line)
    shown = cli(line, "show", question["run"])
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
    document = cli(line, "show", question["run"], "--json").json
    assert document["calls"][0]["args"] == question["args"]
    assert document["questions"] == [question]
    assert [(wait["kind"], wait["until"]) for wait in document["waits"]] == [("person", question["expires_at"])]
    assert [entry["n"] for entry in document["entries"]] == list(range(1, len(document["entries"]) + 1))
    cli(line, "approve", question["run"], "--shown", question["shown"], "--by", "ann")
    assert cli(line, "watch", question["run"]).code == 0
    done = cli(line, "show", question["run"])
    assert "status   completed" in done.out
    assert "done" in done.out
    assert done.out.rstrip().endswith('Done: {"paid":5}')


def test_show_of_what_is_not_there_exits_1(line: Stack) -> None:
    """Nothing on stdout, one sentence on stderr."""
    ran = cli(line, "show", "nowhere")
    assert (ran.code, ran.out) == (1, "")
    assert "There is no run 'nowhere'" in ran.err


# --- the line --------------------------------------------------------------------------------------------


def test_stop_prints_a_receipt_and_the_run_exits_4(tmp_path: Path) -> None:
    """The receipt names the event and what was open; a second stop changes nothing."""
    with background_stack(tmp_path) as line:
        run = cli(line, "run", "desk", "hang", "--detach").out.strip()
        assert line.portal is not None
        line.portal.call(line.effects.hanging.wait)
        stopped = cli(line, "stop", run, "--why", "enough", "--by", "ann", "--json")
        again = cli(line, "stop", run)
        assert cli(line, "watch", run).code == 4
    assert (stopped.code, stopped.json["by"], stopped.json["why"]) == (0, "ann", "enough")
    assert [start["n"] for start in stopped.json["open"]] == [7]
    assert f"was stopped before: event {stopped.json['n']}, by ann, enough" in again.out
    assert "still open: " in again.out


def test_a_run_that_does_not_exist_is_stopped_with_beforehand_only(line: Stack) -> None:
    """A mistyped id is noticed, and the runs that may be meant are named."""
    run = waiting(line)["run"]
    near = run[:-1] + ("0" if run[-1] != "0" else "1")
    for mistyped in ("mistyped", near, run.replace("-", "")):
        ran = cli(line, "stop", mistyped)
        assert (ran.code, ran.out) == (1, "")
        assert f"There is no run '{mistyped}' of tenant 'default', so nothing was stopped" in ran.err
        assert "add `--beforehand`" in ran.err
        assert cli(line, "show", mistyped).code == 1
        if mistyped != "mistyped":
            assert f"the nearest open runs are {run}" in ran.err
    assert "the nearest open runs are last, " in cli(line, "stop", "lst").err
    ran = cli(line, "stop", "--beforehand", "awaited")
    assert ran.code == 0
    assert ran.out.startswith("There was no run 'awaited' of tenant 'default'; a task that comes for it is refused.\n")
    assert "is stopped beforehand: event 1" in ran.out
    assert cli(line, "stop", "awaited", "--json").json["existed"] is False
    assert "existed" not in cli(line, "stop", run, "--json").json
    assert cli(line, "stop", "Mis typed").code == 2
    assert cli(line, "stop", "--all", "--beforehand").code == 2


def test_a_run_that_was_only_stopped_beforehand_is_not_meant_by_last_or_a_prefix(line: Stack) -> None:
    """Not as long as it is open, not once it is sealed, and not if its whole name is the prefix."""
    run = waiting(line)["run"]
    prefix = run[:22]
    ghost = prefix + ("0" if run[22] != "0" else "1")

    async def stop_as_any_client(phantom: str) -> None:
        async with Client.connect(line.directory, as_="operator") as client:
            assert not (await client.stop(phantom)).existed

    for phantom in (ghost, prefix):
        anyio.run(stop_as_any_client, phantom)
        assert cli(line, "show", "last", "--json").json["run"] == run
        assert cli(line, "show", prefix, "--json").json["run"] == run
    assert cli(line, "watch", ghost).code == 4
    assert cli(line, "show", ghost, "--json").json["run"] == ghost
    assert cli(line, "stop", "last", "--json").json["run"] == run


def test_a_stop_that_cancels_what_a_first_one_let_end_says_so(tmp_path: Path) -> None:
    """Both events are named: from the first nothing started, by the second the rest is cancelled."""
    with background_stack(tmp_path) as line:
        run = cli(line, "run", "desk", "hang", "--detach").out.strip()
        assert line.portal is not None
        line.portal.call(line.effects.hanging.wait)
        drained = cli(line, "stop", run, "--mode", "drain", "--json").json
        fenced = cli(line, "stop", run)
    assert "fenced_n" not in drained
    assert f"was stopped before: event {drained['n']}" in fenced.out
    assert f"event {drained['n'] + 1} cancelled the calls that the first stop had let finish" in fenced.out


def test_run_of_what_was_stopped_before_it_began_exits_4(line: Stack) -> None:
    """The outcome is no agent's, and still it is the run's."""
    key = "stopped-first"
    named = cli(line, "stop", run_of_key("default", key), "--why", "not today", "--beforehand")
    ran = cli(line, "run", "desk", "say hello", "--key", key, "--wait", "20")
    assert named.code == 0
    assert (ran.code, ran.out) == (4, "")
    assert "not today" in ran.err


def test_stop_has_the_modes_that_differ(line: Stack) -> None:
    """Draining lets a call end; there is no third way."""
    run = waiting(line)["run"]
    refused = cli(line, "stop", run, "--mode", "kill")
    assert refused.code == 2
    assert "'kill' is not one of 'fence', 'drain'" in refused.err
    assert cli(line, "stop", run, "--mode", "drain").code == 0
    assert cli(line, "watch", run).code == 4


def test_a_paused_run_goes_on_when_it_is_resumed(line: Stack) -> None:
    """Both words say which event they became; pausing twice is refused."""
    run = waiting(line)["run"]
    assert "approver.paused is event" in cli(line, "pause", run, "--why", "lunch").out
    again = cli(line, "pause", run)
    assert (again.code, again.out) == (1, "")
    assert "paused already" in again.err
    assert cli(line, "approve", run, *seen(line.directory, run), "--by", "ann").code == 0
    assert cli(line, "resume", run, "--json").json["status"] == "done"
    assert cli(line, "watch", run).code == 0


# --- connecting ------------------------------------------------------------------------------------------


def test_no_state_is_a_matter_of_configuration_and_no_broker_is_not(tmp_path: Path) -> None:
    """Exit 2 where nothing was ever started, 8 where nobody answers."""
    missing = command(tmp_path / "nothing", "runs")
    assert "in LINESTOP_DIR, as a command's --dir or as what Client.connect is given" in missing.err
    assert (missing.code, missing.out) == (2, "")
    assert "linestop dev" in missing.err
    write_credential(
        tmp_path / "credentials" / "client.json", Credential(url="nats://127.0.0.1:1", user="client", password="x")
    )
    away = command(tmp_path, "runs")
    assert (away.code, away.out) == (8, "")
    assert "127.0.0.1:1" in away.err


def test_the_directory_may_be_given_as_an_option_or_a_credential_file(line: Stack, tmp_path: Path) -> None:
    """``--dir`` wins over the environment."""
    for where in (line.directory, line.directory / "credentials" / "client.json"):
        assert command(tmp_path, "runs", "--json", "--dir", str(where)).code == 0


def test_another_broker_may_be_named_in_the_project(
    line: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``nats.url`` counts for commands as it does for processes; the environment wins over it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(line.directory / "credentials", tmp_path / "state" / "credentials")
    (tmp_path / "linestop.toml").write_text('dir = "state"\n[nats]\nurl = "nats://127.0.0.1:1"')
    for words in (("runs",), ("stop", "any"), ("verify", "any")):
        away = command(tmp_path / "state", *words)
        assert (away.code, away.out) == (8, "")
        assert "127.0.0.1:1" in away.err
    monkeypatch.setenv("LINESTOP_NATS", line.server.url)
    assert command(tmp_path / "state", "runs", "--json").code == 0


def test_a_directory_that_is_not_the_projects_names_its_own_broker(
    line: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The credential of one installation is not used to the broker of another."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "linestop.toml").write_text('[nats]\nurl = "nats://127.0.0.1:1"')
    own = tmp_path / ".linestop"
    credential = own / "credentials" / "client.json"
    write_credential(credential, Credential(url=line.server.url, user="client", password="x"))
    monkeypatch.delenv("LINESTOP_DIR", raising=False)
    for where, code in (
        (line.directory, 0),
        (line.directory / "credentials" / "client.json", 0),
        (Path(".linestop"), 8),
        (credential, 8),
    ):
        assert main.run(["runs", "--json", "--dir", str(where)]) == code, where


def test_the_state_folder_and_the_tenant_of_the_project_count(
    line: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where neither an option nor the environment says otherwise."""
    name = cli(line, "run", "desk", "say hello", "--tenant", "shop", "--json").json["run"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "linestop.toml").write_text(f'dir = "{line.directory}"\ntenant = "shop"')

    def runs(*words: str) -> list[str]:
        assert main.run(["runs", "--json", *words]) == 0
        return [each["run"] for each in json.loads(capsys.readouterr().out)]

    assert runs() == [name]
    assert runs("--tenant", "none") == []
    monkeypatch.setenv("LINESTOP_TENANT", "none")
    assert runs() == []


def test_another_broker_may_be_named_in_the_environment(line: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """``LINESTOP_NATS`` counts for commands as it does for processes, with the same credentials."""
    monkeypatch.setenv("LINESTOP_NATS", "nats://127.0.0.1:1")
    away = command(line.directory, "runs")
    assert (away.code, away.out) == (8, "")
    assert "127.0.0.1:1" in away.err
    monkeypatch.setenv("LINESTOP_NATS", "garbage")
    bad = command(line.directory, "runs")
    assert (bad.code, bad.out) == (2, "")
    assert "LINESTOP_NATS: 'garbage' is no address of a broker" in bad.err
    monkeypatch.setenv("LINESTOP_NATS", line.server.url)
    assert command(line.directory, "runs", "--json").code == 0


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
    """Letters of all scripts pass; what moves, hides or obeys does not."""
    assert clean(raw) == shown
    assert clean("a\n\tb", block=True) == "a\n\tb"


@pytest.mark.parametrize("width", [40, 80, 100, 160])
def test_an_id_is_never_broken_however_narrow_the_screen(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ids are there to be copied; where a table has no room for them each row is a block of its own."""
    monkeypatch.setattr(output, "WIDTH_PIPED", width)
    run, call = "k-" + "0123456789" * 4, "call_" + "ab" * 12
    output.say_table(("run", "call", "cost", "task"), [(run, call, "$0.10", "two words " * 9)], fold=("task",))
    shown = capsys.readouterr().out
    assert run in shown
    assert call in shown
    assert "$0.10" in shown
    assert shown.count("words") == 9
    table = "───" in shown
    assert table == (width == 160)
    assert max(len(line) for line in shown.splitlines() if "words" not in line) <= max(width, len(run))


def test_json_escapes_keep_their_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    """What is escaped for the terminal's sake reads back as it was."""
    value = {"text": "\x1b\x9b\u202e\u2028ü"}
    output.say_json(value)
    printed = capsys.readouterr().out
    assert json.loads(printed) == value
    assert printed == '{"text":"\\u001b\\u009b\\u202e\\u2028ü"}\n'


def test_an_approval_that_expires_is_shown_as_such(line: Stack) -> None:
    """A run whose question nobody answers goes on without the call, and says so."""
    assert line.portal is not None
    line.portal.call(lambda: line.deploy(limits=Limits(approval_expires_s=1, wall_s=600)))
    try:
        run = waiting(line)["run"]
        assert "Nobody answered in time" in cli(line, "watch", run).out
    finally:
        line.portal.call(line.deploy)


def test_a_run_is_named_by_the_beginning_of_its_id_or_as_the_last(line: Stack) -> None:
    """Wherever RUN stands; a name that a client chose is never completed."""
    run = cli(line, "run", "desk", "say hello", "--detach").out.strip()
    assert cli(line, "watch", run[:-4]).code == 0
    assert cli(line, "show", run[:-2], "--json").json["run"] == run
    assert cli(line, "show", "last", "--json").json["run"] == run
    assert cli(line, "verify", "last").code == 0
    several = cli(line, "show", run[:4])
    assert several.code in {0, 2}
    assert "write more of the id" in several.err or several.code == 0
    assert "There is no run 'ffffffff'" in cli(line, "show", "ffffffff").err
    chosen = cli(line, "run", "desk", "say hello", "--json", "--key", "order-10").json["run"]
    assert cli(line, "show", chosen[:12], "--json").json["run"] == chosen
