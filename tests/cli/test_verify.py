"""``linestop verify``: from a file and from a running bus."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Mapping
from pathlib import Path

import anyio.to_thread
import msgspec
import pytest
from tests.run_logs import KEYS, RUN, SCENARIOS, TENANT, Forger, Message, signed_checkpoint
from tests.schemas.test_verify import RULES
from tests.schemas.test_verify_forgeries import FORGERIES, VERSIONS
from tests.stack import stack

from linestop.cli.main import run
from linestop.cli.runs import log_check as cli_verify
from linestop.client import Client
from linestop.schemas.verify.export_bundle import read_bundle, write_bundle


@pytest.fixture(scope="module")
def log() -> list[Message]:
    """A good log."""
    return SCENARIOS["stopped"]()


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A path for an exported log, in an empty project."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / "log.jsonl"


def _verify(file: Path, *more: str) -> int:
    return run(["verify", RUN, "--tenant", TENANT, "--file", str(file), *more])


def test_a_good_file_is_consistent(file: Path, log: list[Message], capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing but the file is needed, and the exit code is 0."""
    file.write_bytes(b"".join(write_bundle(log)))
    assert _verify(file) == 0
    assert capfd.readouterr().out.startswith(f"{RUN}: consistent; {len(log)} events, head ")


def test_a_broken_file_exits_with_nine(file: Path, log: list[Message], capfd: pytest.CaptureFixture[str]) -> None:
    """The first broken event and the reason are printed, as text and as JSON."""
    forger = Forger(log)
    n = forger.insert_copy("planner", "started", at=len(log))
    file.write_bytes(b"".join(write_bundle(forger.messages())))
    assert _verify(file) == 9
    printed = capfd.readouterr().out
    assert f"broken at {n}" in printed
    assert "although the run was stopped" in printed
    assert _verify(file, "--json") == 9
    document = msgspec.json.decode(capfd.readouterr().out)
    assert (document["verdict"], document["status"], document["n"]) == (f"broken at {n}", "broken", n)
    assert {"n", "rule", "sentence", "level"} <= set(document["problems"][0])


PROJECT = "[people]\n" + "\n".join(f'{k} = "{v.public_key}"' for k, v in KEYS.items() if v.purpose == "person")
NO_TEXTS: dict[str, bytes] = {}
BROKEN = [
    *((scenario, forge, rule, sentence, NO_TEXTS) for scenario, forge, rule, sentence in RULES),
    *((scenario, forge, rule, sentence, VERSIONS) for scenario, _, forge, rule, sentence in FORGERIES),
]


@pytest.fixture(scope="module")
def logs() -> dict[str, list[Message]]:
    """A good log of every scenario."""
    return {name: make() for name, make in SCENARIOS.items()}


@pytest.mark.parametrize(
    ("scenario", "forge", "rule", "sentence", "texts"),
    BROKEN,
    ids=[*(row[1].__name__[1:] for row in RULES), *(row[1] for row in FORGERIES)],
)
def test_every_hand_broken_log_exits_with_nine_and_names_its_event(  # noqa: PLR0917 - a row of a table
    scenario: str,
    forge: Callable[[Forger], int],
    rule: str,
    sentence: str,
    texts: Mapping[str, bytes],
    file: Path,
    logs: dict[str, list[Message]],
    capfd: pytest.CaptureFixture[str],
) -> None:
    """One file for each rule: the command prints the checker's findings."""
    (file.parent / "linestop.toml").write_text(PROJECT, encoding="utf-8")
    forger = Forger(logs[scenario])
    n = forge(forger)
    file.write_bytes(b"".join(write_bundle(forger.messages(), texts=texts)))
    assert _verify(file) == 9
    printed = capfd.readouterr().out
    assert printed.startswith(f"{RUN}: broken at {n}; ")
    assert re.search(rf"^ +{n}  broken +{rule} +.*(?:{sentence})", printed, re.MULTILINE), printed


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_log_of_the_real_roles_exits_with_zero(
    scenario: str, file: Path, logs: dict[str, list[Message]], capfd: pytest.CaptureFixture[str]
) -> None:
    """The logs that were broken by hand are good before that, for a checker that knows people and agents."""
    (file.parent / "linestop.toml").write_text(PROJECT, encoding="utf-8")
    file.write_bytes(b"".join(write_bundle(logs[scenario], texts=VERSIONS)))
    assert _verify(file) == 0
    assert capfd.readouterr().out.splitlines()[1:] == []


def test_a_checkpoint_in_the_file_counts_with_its_key(
    file: Path, log: list[Message], capfd: pytest.CaptureFixture[str]
) -> None:
    """With the recorder's public key on the command line the log is authentic."""
    checkpoint = signed_checkpoint(log, len(log))
    file.write_bytes(b"".join(write_bundle(log, checkpoints=[checkpoint])))
    assert _verify(file, "--key", f"rec-1={KEYS['rec-1'].public_key}") == 0
    assert f"authentic up to {len(log)}" in capfd.readouterr().out
    assert _verify(file, "--key", "rec-1=xyz") == 2
    capfd.readouterr()
    assert _verify(file) == 0
    assert "is not known: pass it with `--key rec-1=HEX`" in capfd.readouterr().out


def test_a_file_is_checked_by_last_and_by_the_beginning_of_its_runs_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As every other command understands them; another beginning, or a name that a client chose, means that run."""
    run_id, file = "0193b6a0-1111-7000-8000-00000000000a", tmp_path / "log.jsonl"
    monkeypatch.chdir(tmp_path)
    file.write_bytes(b"".join(write_bundle([(f"runs.{TENANT}.{run_id}.operator.stopped.1", b"{}", 1)])))
    for short, meant in (
        ("last", run_id),
        ("0193b6a0", run_id),
        (run_id[:20], run_id),
        ("0193b6a1", "0193b6a1"),
        ("first", "first"),
    ):
        run(["verify", short, "--tenant", TENANT, "--file", str(file)])
        assert capfd.readouterr().out.startswith(f"{meant}: ")


def test_a_file_of_another_run_is_broken(file: Path, log: list[Message], capfd: pytest.CaptureFixture[str]) -> None:
    """The name on the command line is checked, not the one in the file."""
    file.write_bytes(b"".join(write_bundle(log)))
    assert run(["verify", "other", "--tenant", TENANT, "--file", str(file)]) == 9
    verdict, *problems = capfd.readouterr().out.splitlines()
    assert verdict.startswith("other: broken at 1; ")
    assert len(problems) == 1
    assert f"The log holds run '{RUN}' of tenant '{TENANT}', not run 'other'" in problems[0]


def test_a_log_that_was_cut_off_says_where_it_ends(
    file: Path, log: list[Message], capfd: pytest.CaptureFixture[str]
) -> None:
    """Missing events at the end cannot be detected, but it is visible that the run was not over."""
    file.write_bytes(b"".join(write_bundle(log[:5])))
    assert _verify(file) == 0
    assert "it ends at event 5 and is not sealed" in capfd.readouterr().out
    file.write_bytes(b"".join(write_bundle(log)))
    assert _verify(file) == 0
    assert "is not sealed" not in capfd.readouterr().out


def test_a_file_that_is_not_a_log_is_one_sentence(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A damaged file is the caller's mistake, not a broken log."""
    file.write_text("not a log\n", encoding="utf-8")
    assert _verify(file) == 2
    assert "Line 1 is not a line of an exported log" in capfd.readouterr().err


@pytest.mark.parametrize("line", ["[" * 100_000, '{"seq": ' + "9" * 5_000 + "}", '{"x": ' + "[" * 100_000])
def test_an_unreadable_line_is_one_sentence(file: Path, line: str, capfd: pytest.CaptureFixture[str]) -> None:
    """The sender of a log may send anything."""
    file.write_text(line)
    assert _verify(file) == 2
    assert "Line 1 is not a line of an exported log" in capfd.readouterr().err


def test_an_endless_line_is_not_read_to_its_end(
    file: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A device may never end, and no line of a log is longer than its longest text."""
    monkeypatch.setattr(cli_verify, "LINE_BYTES_MAX", 1_000)
    file.write_text("x" * 5_000)
    assert _verify(file) == 2
    assert "A line has over 1000 bytes" in capfd.readouterr().err


def test_a_file_gives_back_every_byte() -> None:
    """Payloads that are no text, checkpoints and texts survive being written and read."""
    messages = ((f"runs.t.r1.planner.started.{n}", payload, n) for n, payload in enumerate((b"{}", b"\xff\x00"), 1))
    expected = list(messages)
    bundle = read_bundle(b"".join(write_bundle(expected, texts={"a" * 64: b"\xfe"})).splitlines(keepends=True))
    assert list(bundle.messages) == expected
    assert bundle.texts == {"a" * 64: b"\xfe"}


@pytest.mark.anyio
@pytest.mark.broker
async def test_a_run_on_a_real_bus_verifies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The log of real processes is authentic by the recorder's checkpoint, for a holder of its public key."""
    monkeypatch.chdir(tmp_path)
    async with stack(tmp_path) as system:
        async with Client.connect(system.directory) as client:
            submitted = await client.submit("desk", "look")
            await client.outcome(submitted.run, timeout_s=20)
        arguments = ["verify", submitted.run, "--dir", str(system.directory)]
        assert await anyio.to_thread.run_sync(run, arguments) == 0
        (system.directory / "credentials" / "checkpoint.pub").unlink()
        assert await anyio.to_thread.run_sync(run, arguments) == 0
        assert await anyio.to_thread.run_sync(run, ["verify", "nobody", "--dir", str(system.directory)]) == 1
        out, nowhere = tmp_path / "run.jsonl", tmp_path / "missing" / "run.jsonl"
        for name, file, code in (
            ("nobody", out, 1),
            (submitted.run, nowhere, 2),
            (submitted.run, out, 0),
            (submitted.run, out, 2),
        ):
            words = ["export", name, "--out", str(file), "--dir", str(system.directory)]
            assert await anyio.to_thread.run_sync(run, words) == code
    printed = capfd.readouterr()
    first, second, exported = [text for text in printed.out.splitlines() if text.startswith(submitted.run)]
    events = int(first.split("; ")[1].split()[0])
    assert f"authentic up to {events}; {events} events" in first
    assert "consistent" in second
    assert "is not known" in printed.out
    assert "There is no run 'nobody'" in printed.err
    assert f"{events} events, 1 checkpoint and" in exported
    assert "run.jsonl already exists" in printed.err
    assert f"linestop: {nowhere} cannot be written: No such file or directory.\n" in printed.err
    _offline(out, submitted.run, capfd)


def _offline(file: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """An exported log is checked without a broker, and one changed letter is found."""
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    words = ["verify", name, "--file", str(file), "--dir", str(file.parent / "nowhere")]
    assert run(words) == 0
    assert f"{name}: consistent" in capfd.readouterr().out
    log = file.read_bytes()
    assert b"look" in log
    file.write_bytes(log.replace(b"look", b"loot", 1))
    assert run(words) == 9
    assert "broken at" in capfd.readouterr().out
