"""``linestop verify``: from a file and from a running bus."""

from __future__ import annotations

from pathlib import Path

import anyio.to_thread
import msgspec
import pytest
from tests.run_logs import KEYS, RECORDER, RUN, SCENARIOS, TENANT, Forger, Message
from tests.stack import stack

from linestop.cli.main import run
from linestop.client import Client
from linestop.schemas.verify import read_chain, sign_checkpoint
from linestop.schemas.verify.bundle import read_bundle, write_bundle
from linestop.testing.virtual import START


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
    n = forger.again("planner", "started", at=len(log))
    file.write_bytes(b"".join(write_bundle(forger.messages())))
    assert _verify(file) == 9
    printed = capfd.readouterr().out
    assert f"broken at {n}" in printed
    assert "although the run was stopped" in printed
    assert _verify(file, "--json") == 9
    document = msgspec.json.decode(capfd.readouterr().out)
    assert (document["verdict"], document["status"], document["n"]) == (f"broken at {n}", "broken", n)
    assert {"n", "rule", "sentence", "level"} <= set(document["problems"][0])


def test_a_checkpoint_in_the_file_counts_with_its_key(
    file: Path, log: list[Message], capfd: pytest.CaptureFixture[str]
) -> None:
    """With the recorder's public key on the command line the log is authentic."""
    checkpoint = sign_checkpoint(RECORDER, "rec-1", link=read_chain(TENANT, RUN, log).links[-1], at=START)
    file.write_bytes(b"".join(write_bundle(log, checkpoints=[checkpoint])))
    assert _verify(file, "--key", f"rec-1={KEYS['rec-1'].public_key}") == 0
    assert f"authentic up to {len(log)}" in capfd.readouterr().out
    assert _verify(file, "--key", "rec-1=xyz") == 2


def test_a_file_of_another_run_is_broken(file: Path, log: list[Message], capfd: pytest.CaptureFixture[str]) -> None:
    """The name on the command line is what is checked, not what the file claims."""
    file.write_bytes(b"".join(write_bundle(log)))
    assert run(["verify", "other", "--tenant", TENANT, "--file", str(file)]) == 9
    assert "is no event of run 'other'" in capfd.readouterr().out


def test_a_file_that_is_none_is_said_in_a_sentence(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A damaged file is the caller's mistake, not a broken log."""
    file.write_text("not a log\n", encoding="utf-8")
    assert _verify(file) == 2
    assert "Line 1 is no line of an exported log" in capfd.readouterr().err


def test_a_file_gives_back_every_byte() -> None:
    """Payloads that are no text, checkpoints and texts survive being written and read."""
    messages = ((f"runs.t.r1.planner.started.{n}", payload, n) for n, payload in enumerate((b"{}", b"\xff\x00"), 1))
    kept = list(messages)
    bundle = read_bundle(b"".join(write_bundle(kept, texts={"a" * 64: b"\xfe"})).splitlines(keepends=True))
    assert list(bundle.messages) == kept
    assert bundle.texts == {"a" * 64: b"\xfe"}


@pytest.mark.anyio
@pytest.mark.broker
async def test_a_run_on_a_real_bus_verifies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What the real processes wrote is authentic by the recorder's checkpoint, for whoever has its public key."""
    monkeypatch.chdir(tmp_path)
    async with stack(tmp_path) as line:
        async with Client.connect(line.directory) as client:
            submitted = await client.submit("desk", "look")
            await client.outcome(submitted.run, timeout_s=20)
        arguments = ["verify", submitted.run, "--dir", str(line.directory)]
        assert await anyio.to_thread.run_sync(run, arguments) == 0
        (line.directory / "credentials" / "checkpoint.pub").unlink()
        assert await anyio.to_thread.run_sync(run, arguments) == 0
        assert await anyio.to_thread.run_sync(run, ["verify", "nobody", "--dir", str(line.directory)]) == 1
    printed = capfd.readouterr()
    first, *_, last = [text for text in printed.out.splitlines() if text.startswith(submitted.run)]
    events = int(first.split("; ")[1].split()[0])
    assert f"authentic up to {events}; {events} events" in first
    assert "consistent" in last
    assert "is not known" in printed.out
    assert "There is no run 'nobody'" in printed.err
