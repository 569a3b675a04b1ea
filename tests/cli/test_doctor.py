"""``doctor``: one line a check; ``health``: one answer."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from anyio.to_thread import run_sync

from linestop.bus.access.credentials import credential_path, ensure_credentials
from linestop.bus.access.rights import CREDENTIALS
from linestop.bus.connection import Connection, connect
from linestop.bus.server.embedded import EmbeddedServer
from linestop.bus.streams.create_streams import set_up
from linestop.cli.doctor.checks import LOCK_UNTOUCHED_MAX_S, check_worker
from linestop.cli.doctor.stream_checks import check_replicas
from linestop.cli.main import run
from linestop.errors import LinestopError, NotFound, RetryableError, Unreachable
from linestop.runtime.workers.worker_names import lock_name


def findings(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    """The findings of ``doctor --json``, by check."""
    return {found["check"]: found for found in json.loads(capsys.readouterr().out)}


def test_an_empty_folder_is_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing has to exist; a finding names what does not exist yet."""
    monkeypatch.chdir(tmp_path)
    assert run(["doctor", "--json"]) == 0
    found = findings(capsys)
    assert {name for name, one in found.items() if one["level"] == "error"} == set()
    assert found["credentials"]["level"] == "warning"
    assert {"python", "nats-server", "sandboxes", "project", "tools", "agents", "model keys"} <= set(found)


def test_doctor_prints_one_line_a_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """For people and for ``grep``."""
    monkeypatch.chdir(tmp_path)
    assert run(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.split()[0] in {"ok", "warning", "error"} for line in lines)


def test_bad_configuration_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """People run ``doctor`` when nothing works, so it must work."""
    monkeypatch.chdir(tmp_path)
    Path("linestop.toml").write_text("tenant = 1")
    assert run(["doctor", "--json"]) == 1
    assert findings(capsys)["project"]["level"] == "error"


@pytest.mark.parametrize(
    ("agent", "check", "level", "words"),
    [
        ("model = 'openai/gpt-4o'", "model keys", "warning", "openai/gpt-4o needs OPENAI_API_KEY"),
        ("model = 'playbook/suport'", "playbooks", "warning", "uses playbook/suport, and there is no such playbook"),
        ("model = 'openai/no-such'", "agents", "error", "No price"),
        ("model = 'playbook/x'\ntools = ['no']", "agents", "error", "no tool is called 'no'"),
    ],
)
def test_what_is_wrong_with_an_agent_is_named(  # noqa: PLR0917 - a table
    agent: str,
    check: str,
    level: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Keys, prices and tools are checked before the first run needs them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    Path("agents").mkdir()
    Path("agents/a.toml").write_text(agent)
    Path("agents/a.md").write_text("Hello.")
    run(["doctor", "--json"])
    found = findings(capsys)[check]
    assert found["level"] == level
    assert words in found["sentence"]


def test_an_unknown_variable_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A misspelt variable would otherwise do nothing, silently."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LINESTOP_PROFIL", "prod")
    assert run(["doctor", "--json"]) == 0
    assert "LINESTOP_PROFIL is not a variable" in findings(capsys)["environment"]["sentence"]


def test_a_credential_that_others_may_read_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sentence is the command that mends it."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / ".linestop" / "credentials"
    folder.mkdir(parents=True)
    (folder / "planner.json").write_text("{}")
    (folder / "planner.json").chmod(0o644)
    assert run(["doctor", "--json"]) == 1
    assert "chmod 600" in findings(capsys)["credentials"]["sentence"]


def test_a_worker_is_well_while_it_holds_its_name_and_beats(tmp_path: Path) -> None:
    """Held by a process that hangs is not well."""
    with pytest.raises(NotFound, match="No worker called planner runs"):
        check_worker(tmp_path, "planner")
    with lock_name(tmp_path, "planner") as lock:
        assert check_worker(tmp_path, "planner") == "The worker planner is alive."
        then = lock.path.stat().st_mtime - LOCK_UNTOUCHED_MAX_S - 1
        os.utime(lock.path, (then, then))
        with pytest.raises(RetryableError, match="has not responded"):
            check_worker(tmp_path, "planner")


def test_health_without_a_broker_is_exit_code_8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A container's health check needs only the code."""
    monkeypatch.chdir(tmp_path)
    assert run(["health"]) == 8
    assert "There is no credential" in capsys.readouterr().err
    assert run(["health", "--worker", "nobody"]) == 1
    assert "No worker called nobody runs" in capsys.readouterr().err


def test_a_broker_that_does_not_answer_is_exit_code_8_unless_more_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A script can distinguish an unreachable broker from an unusable project."""
    monkeypatch.chdir(tmp_path)
    ensure_credentials(tmp_path / ".linestop", "nats://127.0.0.1:1")
    assert run(["doctor", "--json"]) == 8
    broker = findings(capsys)["broker"]
    assert (broker["level"], broker["code"]) == ("error", "unreachable")
    assert "nats://127.0.0.1:1" in broker["sentence"]
    (tmp_path / "agents").mkdir()
    (tmp_path / "agents" / "a.toml").write_text("model = 1")
    assert run(["doctor", "--json"]) == 1


@pytest.mark.anyio
@pytest.mark.broker
async def test_a_running_broker_is_checked_without_creating_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Streams that are missing are named; once they are there, streams and clock are well."""
    monkeypatch.chdir(tmp_path)
    async with EmbeddedServer(tmp_path / ".linestop") as server:
        for _ in range(2):
            assert await run_sync(run, ["doctor", "--json"]) == 1
            assert "stream RUNS is missing" in findings(capsys)["streams"]["sentence"]
        async with await connect(server.credential("bootstrap"), name="test") as connection:
            await set_up(connection)
        await run_sync(run, ["doctor", "--json"])
        found = findings(capsys)
        assert [found[check]["level"] for check in ("broker", "streams", "clock")] == ["ok"] * 3


@pytest.mark.anyio
@pytest.mark.broker
async def test_a_machine_with_one_roles_credential_sees_what_that_credential_may_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A host that runs only one role checks its broker and the workers, and names the checks that it could not make."""
    monkeypatch.chdir(tmp_path)
    async with EmbeddedServer(tmp_path / ".linestop") as server:
        async with await connect(server.credential("bootstrap"), name="test") as connection:
            await set_up(connection)
        for name in CREDENTIALS:
            if name != "planner":
                credential_path(tmp_path / ".linestop", name).unlink()
        assert await run_sync(run, ["doctor", "--json"]) == 1
        found = findings(capsys)
        assert [found[check]["level"] for check in ("broker", "log", "streams", "workers")] == [
            "ok",
            "ok",
            "warning",
            "error",
        ]
        assert "'planner' may not see them" in found["streams"]["sentence"]
        assert "these roles have no worker" in found["workers"]["sentence"]


def test_a_missing_exporter_for_traces_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A set endpoint without an exporter is reported, with the package to install."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:9")
    assert run(["doctor", "--json"]) == 0
    assert findings(capsys)["traces"]["level"] == "ok"
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    assert run(["doctor", "--json"]) == 1
    assert "linestop[otlp]" in findings(capsys)["traces"]["sentence"]


class _Broker:
    """Answers for every stream with the same replicas, or not at all."""

    def __init__(self, *peers: dict[str, object], silent: str = "") -> None:
        self._peers, self._silent = peers, silent

    async def api_request(self, subject: str, *, timeout_s: float) -> dict[str, object]:
        assert timeout_s > 0
        if self._silent and subject.endswith(f".{self._silent}"):
            raise Unreachable("no answer")
        return {"config": {"num_replicas": 3}, "state": {}, "cluster": {"leader": "a", "replicas": self._peers}}


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("broker", "sentence"),
    [
        (
            _Broker({"name": "b", "current": True, "active": 9_000_000_000}, {"name": "c", "current": True}),
            "RUNS on b has not answered for 9 s",
        ),
        (
            _Broker({"name": "b", "current": False, "lag": 7}, {"name": "c", "current": True}),
            "RUNS on b is 7 operations",
        ),
        (_Broker({"name": "b", "current": True}), "RUNS has 2 of 3 copies"),
        (
            _Broker({"name": "b", "current": True}, {"name": "c", "current": True}, silent="RUNS"),
            "RUNS does not answer",
        ),
    ],
)
async def test_a_missing_or_lagging_replica_is_named(broker: _Broker, sentence: str) -> None:
    """A dead node's copy, which the server still calls current; one behind; one missing; a stream without a leader."""
    with pytest.raises(LinestopError, match=f"^{sentence}.*stop no node until all are current"):
        await check_replicas(cast("Connection", broker))


def test_an_untrusted_folder_can_be_checked_without_running_its_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With `--no-code` none of its Python is imported, and the checks that need it are skipped."""
    monkeypatch.chdir(tmp_path)
    Path("linestop.toml").write_text('tools = ["tools.py"]\n')
    Path("tools.py").write_text('open("was-run", "w").close()\n')
    run(["doctor", "--json", "--no-code"])
    assert not Path("was-run").exists()
    assert not {"tools", "agents", "model keys"} & set(findings(capsys))
    run(["doctor", "--json"])
    assert Path("was-run").exists()
