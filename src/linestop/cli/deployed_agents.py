"""The agents in files and the deployed ones: listing, deploying, undeploying, rolling back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import anyio
import click
import msgspec

from linestop.bus.connection import connect
from linestop.bus.interfaces import Bucket
from linestop.bus.jetstream import JetStream
from linestop.bus.stores.agent_versions import AgentStore, Mark
from linestop.bus.streams import stream_names
from linestop.cli.output import printing, wording
from linestop.cli.project_contents import load_project_agents, load_tools, stored_credentials
from linestop.config.agent_files import AgentTooLargeError
from linestop.config.project_file import Project, load_project
from linestop.errors import LinestopError, NotFound
from linestop.schemas.agents import AgentVersion
from linestop.schemas.run.fold import Run

DIGEST_SHOWN: Final = 12
RUNS_NAMED_MAX: Final = 5
RESTART: Final = "processes load tools and playbooks when they start: restart them (`linestop dev`, `up`, `actor`)"
T = TypeVar("T")


class AgentLine(msgspec.Struct, frozen=True, kw_only=True):
    """One agent: its version in files and the deployed one; empty if there is none, or the broker was not asked."""

    name: str
    model: str
    tools: tuple[str, ...]
    in_files: str = ""
    deployed: str = ""
    asked: bool = True
    mark: Mark = ""

    @property
    def differs_from_deployed(self) -> bool:
        """Whether the files hold a version that new runs do not use."""
        return self.asked and bool(self.in_files) and self.in_files != self.deployed

    @property
    def state(self) -> str:
        """How the two versions compare, in words."""
        if not self.asked:
            return "in files"
        if not self.deployed:
            return self.mark or "not deployed"
        if not self.in_files:
            return "deployed, not in files"
        if self.mark and self.in_files != self.deployed:
            return f"{self.mark}, other in files"
        return "deployed" if self.in_files == self.deployed else "changed since it was deployed"


def list_agents(nats: str | None, *, as_json: bool) -> None:
    """List the agents in files and the deployed ones, which new runs use. Without a broker only the files are shown."""
    project = load_project().with_broker(nats)
    too_large: list[AgentTooLargeError] = []
    in_files = {
        agent.name: agent for agent in load_project_agents(project, load_tools(project), on_left_out=too_large.append)
    }
    for error in too_large:
        printing.note(str(error))
    deployed: dict[str, AgentVersion] = {}
    marks: dict[str, Mark] = {}
    broker_was_asked = True

    async def read_deployed(bucket: Bucket) -> tuple[dict[str, AgentVersion], dict[str, Mark]]:
        current = await _deployed(bucket)
        return current, {name: await AgentStore(bucket).mark(name) for name in {*in_files, *current}}

    try:
        deployed, marks = with_store(project, read_deployed)
    except LinestopError as error:
        click.echo(f"The deployed agents are not shown: {error}", err=True)
        broker_was_asked = False
    lines = [
        msgspec.structs.replace(
            _line(name, in_files.get(name), deployed.get(name), broker_was_asked=broker_was_asked),
            mark=marks.get(name, ""),
        )
        for name in sorted({*in_files, *deployed})
    ]
    if as_json:
        printing.print_json([{**msgspec.to_builtins(line), "state": line.state} for line in lines])
        return
    for line in lines:
        click.echo(f"{line.name}  {line.model}  {line.state}  {(line.deployed or line.in_files)[:DIGEST_SHOWN]}")
        click.echo(f"    tools: {', '.join(line.tools) or 'none'}")
    if any(line.differs_from_deployed for line in lines):
        printing.note(f"`linestop deploy` deploys the versions in files; {RESTART}.")


def deploy_agents(names: Sequence[str], nats: str | None, *, as_json: bool) -> None:
    """Deploy the agents in files, all of them or those named: new runs use them, open runs keep their version."""
    project = load_project().with_broker(nats)
    too_large: list[AgentTooLargeError] = []
    agents_in_files = {
        agent.name: agent for agent in load_project_agents(project, load_tools(project), on_left_out=too_large.append)
    }
    if requested_error := next((error for error in too_large if error.agent in names), None):
        raise requested_error
    unknown = [name for name in names if name not in agents_in_files]
    if unknown:
        raise NotFound(
            f"There is no agent {unknown[0]!r} in files; the files define {', '.join(agents_in_files) or 'none'}."
        )
    chosen = [agent for name, agent in agents_in_files.items() if not names or name in names]

    async def work(stream: JetStream) -> tuple[dict[str, str], list[Run]]:
        store = AgentStore(stream.bucket(stream_names.AGENTS_BUCKET))
        done = {agent.name: await store.deploy(agent) for agent in chosen}
        return done, await _open_runs(stream)

    digests, runs = _with_stream(project, work)
    if as_json:
        printing.print_json(digests)
    else:
        for name, digest in digests.items():
            click.echo(f"{name}  {digest[:DIGEST_SHOWN]}")
        printing.note(f"New runs use these versions; {RESTART}.")
    for sentence in open_runs_with_changed_contracts(runs, chosen):
        printing.note(sentence)
    if too_large and not names:
        raise too_large[0]


async def _open_runs(stream: JetStream) -> list[Run]:
    found: list[Run] = []
    for tenant, name in await stream.log().open_runs():
        run = Run(tenant, name)
        for message in await stream.log().load(tenant, name):
            run.apply(message.subject, message.payload, message.seq)
        found.append(run)
    return found


def open_runs_with_changed_contracts(runs: Sequence[Run], agents: Sequence[AgentVersion]) -> list[str]:
    """One sentence for each tool whose contract differs between open runs of these agents and the new versions."""
    runs_by_change: dict[tuple[str, str], list[str]] = {}
    agents_by_name = {agent.name: agent for agent in agents}
    for run in runs:
        agent = agents_by_name.get(run.opened.agent.name) if run.opened and not run.done else None
        for grant in run.opened.tools if run.opened and agent else ():
            contract = agent.tool(grant.name) if agent else None
            if contract is None or contract.digest() == grant.contract_digest:
                continue
            wider = "; ".join(grant.widened_by(contract))
            consequence = (
                f"and a person is asked before they call the tool under its new contract: {wider}"
                if wider
                else "which still applies"
            )
            runs_by_change.setdefault((grant.name, consequence), []).append(run.run)
    return [
        _changed_contract_sentence(tool, consequence, affected)
        for (tool, consequence), affected in sorted(runs_by_change.items())
    ]


def _changed_contract_sentence(tool: str, consequence: str, runs: list[str]) -> str:
    names = ", ".join(runs[:RUNS_NAMED_MAX]) + (", …" if len(runs) > RUNS_NAMED_MAX else "")
    return f"{wording.counted(len(runs), 'open run')} ({names}) began with another contract of '{tool}', {consequence}."


def undeploy_agent(name: str, *, nats: str | None, as_json: bool) -> None:
    """Refuse new runs of AGENT."""
    project = load_project().with_broker(nats)

    async def work(bucket: Bucket) -> None:
        await AgentStore(bucket).undeploy(name)

    with_store(project, work)
    if as_json:
        printing.print_json({name: ""})
        return
    click.echo(f"{name}  undeployed")
    printing.note(
        f"New runs of this agent are refused as 'no_agent'; open runs continue. "
        f"`linestop deploy {name}` deploys it again."
    )


def roll_back_agent(name: str, digest: str | None, *, nats: str | None, as_json: bool) -> None:
    """Let new runs of AGENT use an earlier version again."""
    project = load_project().with_broker(nats)

    async def work(bucket: Bucket) -> AgentVersion:
        store = AgentStore(bucket)
        deployed = await store.current(name)
        if deployed is None:
            raise NotFound(f"There is no agent {name!r} deployed; `linestop agents` lists them.")
        version = _earlier_version(await _versions(bucket, name), deployed.digest(), digest)
        if version is None:
            missing = f"version {digest}" if digest else "earlier version"
            raise NotFound(f"The agent {name!r} has no {missing} to go back to.")
        await store.roll_back(version)
        return version

    version = with_store(project, work)
    if as_json:
        printing.print_json({name: version.digest()})
        return
    click.echo(f"{name}  {version.digest()[:DIGEST_SHOWN]}")
    printing.note(f"Restarted processes keep this version; `linestop deploy {name}` deploys the one in files.")


def with_store(project: Project, work: Callable[[Bucket], Awaitable[T]]) -> T:
    """Run ``work`` on the bucket of agents, as the operator."""
    return _with_stream(project, lambda stream: work(stream.bucket(stream_names.AGENTS_BUCKET)))


def _with_stream(project: Project, work: Callable[[JetStream], Awaitable[T]]) -> T:
    credential = stored_credentials(project, ["operator"])["operator"]

    async def connected() -> T:
        async with await connect(credential, name="linestop agents") as connection:
            return await work(JetStream(connection))

    return anyio.run(connected)


async def _deployed(bucket: Bucket) -> dict[str, AgentVersion]:
    store = AgentStore(bucket)
    found = {name: await store.current(name) for name in await store.names()}
    return {name: agent for name, agent in found.items() if agent is not None}


async def _versions(bucket: Bucket, name: str) -> list[AgentVersion]:
    """All stored versions of an agent, in the order in which they were first deployed."""
    found: list[tuple[int, AgentVersion]] = []
    for key in await bucket.keys("version."):
        value = await bucket.get(key)
        if value is not None and value.value:
            agent = msgspec.json.decode(value.value, type=AgentVersion)
            if agent.name == name:
                found.append((value.revision, agent))
    return [agent for _, agent in sorted(found, key=lambda pair: pair[0])]


def _earlier_version(versions: list[AgentVersion], current: str, digest: str | None) -> AgentVersion | None:
    """The version whose digest begins with ``digest``, or the one first deployed before the current one."""
    if digest is not None:
        matches = [version for version in versions if digest and version.digest().startswith(digest)]
        return matches[0] if len(matches) == 1 else None
    positions = [place for place, version in enumerate(versions) if version.digest() == current]
    return versions[positions[0] - 1] if positions and positions[0] > 0 else None


def _line(
    name: str, in_files: AgentVersion | None, deployed: AgentVersion | None, *, broker_was_asked: bool
) -> AgentLine:
    shown = in_files or deployed
    assert shown is not None, "a name comes from one of the two"
    return AgentLine(
        name=name,
        model=shown.model.model,
        tools=tuple(tool.name for tool in shown.tools),
        in_files=in_files.digest() if in_files else "",
        deployed=deployed.digest() if deployed else "",
        asked=broker_was_asked,
    )
