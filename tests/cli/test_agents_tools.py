"""``agents``, ``deploy``, ``rollback`` and ``tools``."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from tests.builders import Story, agent

from linestop.bus.connection import connect
from linestop.bus.jetstream import JetStream
from linestop.bus.server.embedded import EmbeddedServer
from linestop.bus.stores.agent_versions import AgentStore
from linestop.bus.streams import stream_names
from linestop.bus.streams.create_streams import set_up
from linestop.cli.deployed_agents import AgentLine, open_runs_with_changed_contracts
from linestop.cli.main import run
from linestop.cli.project_contents import load_project_agents, load_tools
from linestop.cli.serving.assemble_process import deploy_at_start
from linestop.config.project_file import load_project
from linestop.schemas.agents import AgentVersion

TOOLS = """
from linestop import Context, tool

@tool(name="notes.read", tier="read", owner="me")
async def read(ctx: Context, name: str) -> str:
    '''Read a note.

    Args:
        ctx: The attempt.
        name: Which.
    '''
    return name

@tool(name="notes.burn")
async def burn(ctx: Context, name: str) -> str:
    '''Burn a note for ever.'''
    return name
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with an agent and two tools, one of them badly declared."""
    monkeypatch.chdir(tmp_path)
    Path("linestop.toml").write_text('tools = ["notes.py"]')
    Path("notes.py").write_text(TOOLS)
    Path("agents").mkdir()
    Path("agents/clerk.toml").write_text('model = "playbook/hello"\ntools = ["notes.read"]')
    Path("agents/clerk.md").write_text("One.")
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_tools_are_listed_with_tier_and_source(capsys: pytest.CaptureFixture[str]) -> None:
    """Built-in ones and those of the project."""
    assert run(["tools", "ls"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert "read" in lines["notes.read"]
    assert lines["notes.read"].endswith("notes.py")
    assert "destructive" in lines["notes.burn"]
    assert lines["clock.now"].endswith("linestop")


@pytest.mark.usefixtures("folder")
def test_a_tool_is_inspected(capsys: pytest.CaptureFixture[str]) -> None:
    """The contract is enforced, so it is shown in full."""
    assert run(["tools", "inspect", "notes.read", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["tier"] == "read"
    assert run(["tools", "inspect", "notes.no"]) == 1
    assert "there is no tool notes.no" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
def test_lint_fails_for_a_tool_that_should_not_be_used(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1, so that it can be used in a pipeline."""
    assert run(["tools", "lint", "--json"]) == 1
    finding = json.loads(capsys.readouterr().out)
    assert {one["tool"] for one in finding if one["level"] == "error"} == {"notes.burn"}


@pytest.mark.parametrize(
    ("in_files", "deployed", "state"),
    [
        ("a", "", "not deployed"),
        ("", "a", "deployed, not in files"),
        ("a", "a", "deployed"),
        ("b", "a", "changed since it was deployed"),
    ],
)
def test_an_agent_s_state_compares_files_and_bus(in_files: str, deployed: str, state: str) -> None:
    """The deployed version may differ from the one in files."""
    assert AgentLine(name="a", model="m", tools=(), in_files=in_files, deployed=deployed).state == state


@pytest.mark.usefixtures("folder")
def test_without_a_broker_agents_shows_the_files(capsys: pytest.CaptureFixture[str]) -> None:
    """A note says that only these are shown."""
    assert run(["agents", "--json"]) == 0
    captured = capsys.readouterr()
    assert [one["state"] for one in json.loads(captured.out)] == ["in files"]
    assert "deployed agents are not shown" in captured.err


def _changed(text: Path) -> AgentVersion:
    text.write_text(f"{text.read_text()} Changed.")
    (found,) = load_project_agents(load_project(), load_tools(load_project()))
    return found


async def assert_start_keeps_mark(server: EmbeddedServer, text: Path, mark: str) -> None:
    """`dev` and `up` do not override a rollback or an undeployment; only a person does."""
    changed = _changed(text)
    async with await connect(server.credential("operator"), name="test") as connection:
        store = AgentStore(JetStream(connection).bucket(stream_names.AGENTS_BUCKET))
        before = await store.current_digest("clerk")
        assert await deploy_at_start(server.credential("operator"), [changed]) == [
            f"The agent 'clerk' was {mark} and stays so; `linestop deploy clerk` deploys the version in files."
        ]
        assert await store.current_digest("clerk") == before


@pytest.mark.anyio
@pytest.mark.broker
async def test_deploy_and_rollback_move_what_new_runs_get(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A version is stored permanently; only the pointer moves."""
    from anyio.to_thread import run_sync  # noqa: PLC0415 - commands run an event loop of their own

    async with EmbeddedServer(folder / ".linestop") as server:
        async with await connect(server.credential("bootstrap"), name="test") as connection:
            (await set_up(connection)).require_no_differences()
        assert await run_sync(run, ["deploy"]) == 0
        (folder / "agents" / "clerk.md").write_text("Two.")
        assert await run_sync(run, ["agents", "--json"]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])[0]["state"] == "changed since it was deployed"
        assert await run_sync(run, ["agents"]) == 0
        assert "`linestop deploy` deploys the versions in files" in capsys.readouterr().err
        assert await run_sync(run, ["deploy", "clerk"]) == 0
        second, hint = capsys.readouterr()
        assert "processes load tools and playbooks when they start: restart them" in hint
        assert await run_sync(run, ["rollback", "clerk"]) == 0
        first = capsys.readouterr().out
        assert first != second
        assert await run_sync(run, ["rollback", "clerk"]) == 1
        assert "no earlier version" in capsys.readouterr().err
        for none in ("A b", "*", "a\nb", ""):
            assert await run_sync(run, ["rollback", none]) == 2
            assert "is not a name" in capsys.readouterr().err
        assert await run_sync(run, ["rollback", "clerk", "--to", second.split()[1]]) == 0
        assert capsys.readouterr().out == second
        await assert_start_keeps_mark(server, folder / "agents" / "clerk.md", "rolled back")
        assert await run_sync(run, ["agents", "--json"]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])[0]["mark"] == "rolled back"
        assert await run_sync(run, ["undeploy", "clerk"]) == 0
        await assert_start_keeps_mark(server, folder / "agents" / "clerk.md", "undeployed")
        capsys.readouterr()
        assert await run_sync(run, ["agents"]) == 0
        assert "undeployed" in capsys.readouterr().out
        assert await run_sync(run, ["undeploy", "clerk"]) == 1
        assert "There is no agent 'clerk' deployed" in capsys.readouterr().err
        assert await run_sync(run, ["deploy", "clerk"]) == 0
        changed = _changed(folder / "agents" / "clerk.md")
        assert await deploy_at_start(server.credential("operator"), [changed]) == []
        assert await run_sync(run, ["deploy", "nobody"]) == 1


def test_deploy_names_the_open_runs_that_began_with_another_contract() -> None:
    """By tool, with the contract that applies to its calls; sealed runs and those of other agents are not named."""
    version_1, story = agent(), Story().open_run()
    was = story.run.opened
    assert was is not None
    name = was.tools[0].name
    before = version_1.tool(name)
    assert before is not None

    def version(**fields: object) -> list[str]:
        now = msgspec.structs.replace(before, **fields)
        return open_runs_with_changed_contracts(
            [story.run], [msgspec.structs.replace(version_1, tools=(now, *version_1.tools[1:]))]
        )

    assert open_runs_with_changed_contracts([story.run], [version_1]) == []
    assert version(description="Mended.") == [
        f"1 open run ({story.run.run}) began with another contract of '{name}', which still applies."
    ]
    (sentence,) = version(scopes=("all",))
    assert (
        "and a person is asked before they call the tool under its new contract: its scopes have 'all' in addition"
        in sentence
    )
    story.send_control("stop").append_decided()
    assert version(description="Mended.") == []
