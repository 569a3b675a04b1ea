"""``--json``: every command that prints has it, and its output parses line by line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import click
import pytest
from tests.cli.leaves import leaves
from tests.stack import Stack, command, shown_option

from linestop.cli.main import cli
from linestop.client import Client
from linestop.schemas.subjects import ACTORS

ELSEWHERE = {"demo", "dev", "up", "actor", "bus rotate"}
"""Commands that run until a signal are tested with their processes; the one for outside brokers with those."""


@pytest.mark.parametrize(("name", "found"), list(leaves(cli)))
def test_every_command_has_json(name: str, found: click.Command) -> None:
    """A program need not know which of them print tables."""
    assert [param.name for param in found.params if "--json" in param.opts] == ["as_json"], name


class JsonCommands:
    """Runs commands with ``--json`` and takes their output apart."""

    def __init__(self, system: Stack) -> None:
        self.line = system
        self.names: set[str] = set()

    def __call__(self, name: str, *words: str, code: int = 0, where: Path | None = None) -> list[Any]:
        """The lines that the command prints, each of them one JSON document."""
        ran = command(where or self.line.directory, *name.split(), *words, "--json")
        assert ran.code == code, (name, ran)
        self.names.add(name)
        assert ran.out.endswith("\n"), (name, ran)
        return [json.loads(text) for text in ran.out.splitlines()]

    def waiting(self, text: str) -> str:
        """A run that waits for a person."""
        return str(self("run", "desk", text, code=6)[0]["run"])


def _dead_letter(system: Stack) -> str:
    async def work() -> int:
        async with Client.connect(system.directory, as_="operator") as operator:
            await operator.bus.wire.request("tasks.Not_A_Name.desk", b'{"text":"x"}')
            with anyio.fail_after(20):
                while not (found := await operator.dead_letters()):  # noqa: ASYNC110
                    await anyio.sleep(0.02)
            return found[0].seq

    return str(anyio.run(work))


def _runs(ask: JsonCommands, folder: Path) -> None:
    (done,) = ask("run", "desk", "say hello")
    run = str(done["run"])
    assert ask("show", run)[0]["run"] == run
    events = ask("events", run)
    assert [entry["n"] for entry in events] == list(range(1, len(events) + 1))
    assert ask("watch", run) == events
    assert ask("runs")[0]
    assert ask("verify", run)[0]["run"] == run
    assert ask("export", run, "--out", str(folder / "run.jsonl"))[0]["events"] == len(events)
    paused = ask.waiting("pay 5")
    for name in ("pause", "resume"):
        assert ask(name, paused)[0]["status"] == "done"
    assert ask("stop", paused)[0]["run"] == paused


def _decisions(ask: JsonCommands) -> None:
    yes, no, which = ask.waiting("pay 5"), ask.waiting("pay 5"), ask.waiting("ask")
    assert {each["run"] for each in ask("approvals")[0]} >= {yes, no, which}
    approve = (yes, *shown_option(ask.line.directory, yes))
    for name, words in (("approve", approve), ("deny", (no,)), ("answer", (which, "red"))):
        assert ask(name, *words)[0]["status"] == "done"
    assert ask("event", ask.waiting("await"), "paid", "--data", "1")[0]["status"] == "done"
    doubt = ask.waiting("doubt")
    assert ask("resolve", doubt, "--done", *shown_option(ask.line.directory, doubt))[0]["status"] == "done"


def _workers(ask: JsonCommands) -> None:
    (found,) = ask("workers")
    assert {worker["beat"]["role"] for worker in found if worker["alive"]} == set(ACTORS)


def _switches(ask: JsonCommands) -> None:
    assert ask("switch close", "tool:no.such") == [{"closed": ["tool:no.such"]}]
    assert ask("switch list") == [{"closed": ["tool:no.such"]}]
    assert ask("switch open", "tool:no.such") == [{"closed": []}]


def _agents(ask: JsonCommands) -> None:
    assert "hello" in ask("deploy")[0]
    (agents,) = ask("agents")
    digest = next(each["deployed"] for each in agents if each["name"] == "hello")
    assert ask("rollback", "hello", "--to", digest) == [{"hello": digest}]
    assert ask("undeploy", "hello")[0]
    for name in ("tools ls", "tools lint"):
        assert isinstance(ask(name)[0], list)
    assert ask("tools inspect", "clock.now")[0]["name"] == "clock.now"


def _records(ask: JsonCommands, folder: Path) -> None:
    dead_letter = _dead_letter(ask.line)
    assert len(ask("dead ls")[0]) == 1
    assert ask("dead show", dead_letter)[0]["seq"] == int(dead_letter)
    assert ask("dead requeue", dead_letter)[0]["requeued"]
    events = ask("recorder rebuild")[0]["events"]
    assert ask("recorder status")[0]["events"] == events
    assert ask("recorder snapshot", str(folder / "copy.duckdb"))[0]["events"] == events
    for what in ("events", "asyncapi", "tasks", "control"):
        assert isinstance(ask("schema", what)[0], dict)
    assert {found["check"] for found in ask("doctor")[0]} >= {"python", "broker", "streams"}
    assert [found["check"] for found in ask("health")] == ["broker", "roles"]
    assert ask("bus plan", "--runs-per-day", "9", "--turns", "2")[0]["runs_per_day_max"] > 9
    # The first time: the running server does not know these credentials, so the section for it is printed.
    assert "server_config" in ask("bus init", "--nats", ask.line.server.url, where=folder / "outside", code=2)[0]


@pytest.mark.broker
def test_every_line_that_a_command_prints_with_json_is_valid_json(
    system: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them, on a running system; a new command that is not listed here fails."""
    monkeypatch.chdir(tmp_path)
    ask = JsonCommands(system)
    _runs(ask, tmp_path)
    _decisions(ask)
    _workers(ask)
    _switches(ask)
    _agents(ask)
    _records(ask, tmp_path)
    assert ask.names == {name for name, _ in leaves(cli)} - ELSEWHERE
