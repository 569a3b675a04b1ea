"""A process of linestop, assembled from a project: credentials, models, tools and roles.

``dev``, ``up`` and ``actor`` all use ``serve``; they differ in the roles that run, and in whether they start the
broker themselves.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio
import anyio.to_thread
import msgspec
import structlog

from linestop.archive.requests import ARCHIVE_FILE
from linestop.archive.writer_process import Writer
from linestop.bus.access.credentials import Credential
from linestop.bus.access.rights import CredentialName
from linestop.bus.broker_backend import JetStreamBackend
from linestop.bus.connection import connect
from linestop.bus.interfaces import Publisher
from linestop.bus.jetstream import JetStream
from linestop.bus.stores.agent_versions import AgentStore
from linestop.bus.stores.signed_checkpoints import load_checkpoint_signer
from linestop.bus.streams import stream_names
from linestop.bus.streams.create_streams import BusLayout, set_up
from linestop.bus.streams.migrate_streams import Administrator
from linestop.bus.streams.stream_definitions import DEFAULT_SIZES, StreamSizes
from linestop.cli.project_contents import load_tools, make_importable
from linestop.cli.serving.garbage_collection import rare_collections, spare_existing_objects
from linestop.config.project_file import Project
from linestop.config.toml_files import read_toml
from linestop.errors import Unreachable
from linestop.models import import_sdk
from linestop.models.caller import OnModelDelta, Requester
from linestop.models.playbook import PlaybookServer, load_playbook
from linestop.models.providers import PLAYBOOK
from linestop.runtime.actor_process import ActorProcess
from linestop.runtime.fetch_facts import ResultCheck
from linestop.runtime.intake import Person
from linestop.runtime.process_settings import ProcessSettings, utc_now
from linestop.runtime.role_factory import make_role
from linestop.runtime.workers.worker_names import WorkerLock, next_incarnation
from linestop.sandbox.http.egress_guard import EgressPolicy
from linestop.sandbox.tools.decorator import AnyTool
from linestop.sandbox.tools.perform_call import PerformLimits, run_check
from linestop.sandbox.tools.registry import Registry
from linestop.sandbox.tools.tool_runner import RegistryRunner
from linestop.schemas.agents import AgentVersion
from linestop.schemas.performer_interfaces import CallWork, ModelWork, ToolRunner
from linestop.schemas.subjects import DeltaSubject, RoleName, RunId, TenantId
from linestop.schemas.text.redaction import Redactor
from linestop.schemas.tool_contracts import ToolResult

if TYPE_CHECKING:
    from linestop.runtime.tracing import Spans

LOG = structlog.get_logger("linestop.setup")
LOCK_TOUCH_EVERY_S: Final = 5.0
READY_WITHIN_S: Final = 30.0
RETRY_S: Final = 0.25
Credentials = Mapping[CredentialName, Credential]


class DryRunner:
    """Describes effects above ``read`` instead of performing them: the executor of the profile ``staging``."""

    def __init__(self, runner: ToolRunner) -> None:
        self._runner = runner

    def run(self, works: tuple[CallWork, ...]) -> AsyncIterator[tuple[CallWork, ToolResult, float]]:
        """Perform reads, and describe every other call."""
        return self._runner.run(
            tuple(msgspec.structs.replace(work, dry_run=work.dry_run or work.tier != "read") for work in works)
        )


async def prepare(
    bootstrap: Credential,
    *,
    space: StreamSizes = DEFAULT_SIZES,
    on_wait: Callable[[str], None] | None = None,
    administrator: Administrator | None = None,
) -> tuple[str, ...]:
    """Create streams and consumers.

    Returns the consumers of an older linestop that were updated, and with an ``administrator`` the updated streams,
    too. Without one, a warning is logged that names what the broker's administrator has to do.

    ``on_wait`` is called once with the reason for the delay, if the broker does not answer at first.

    Raises:
        ConfigError: if a stream or consumer is not configured as it must be.
        Unreachable: if the broker is not ready in time.
    """
    with anyio.move_on_after(READY_WITHIN_S):
        while True:
            try:
                async with await connect(bootstrap, name="linestop set-up") as connection:
                    connection.require_payload()
                    set_up_result = await set_up(connection, BusLayout(sizes=space), administrator=administrator)
            except Unreachable as error:
                if on_wait is not None:
                    on_wait(f"{error} Trying for {READY_WITHIN_S:g} s …")
                    on_wait = None
                await anyio.sleep(RETRY_S)
            else:
                set_up_result.require_no_differences()
                for sentence in set_up_result.outdated:
                    LOG.warning("stream_outdated", sentence=f"warning: {sentence}")
                return set_up_result.updated
    raise Unreachable(f"The broker at {bootstrap.url} was not ready within {READY_WITHIN_S:g} s.")


async def deploy_at_start(operator: Credential, agents: Sequence[AgentVersion]) -> list[str]:
    """Deploy these versions for new runs; return a sentence for each agent that a person rolled back or undeployed."""
    async with await connect(operator, name="linestop deploy") as connection:
        store = AgentStore(JetStream(connection).bucket(stream_names.AGENTS_BUCKET))
        marks = [(agent.name, await store.deploy_at_start(agent)) for agent in agents]
        return [
            f"The agent '{name}' was {mark} and stays so; `linestop deploy {name}` deploys the version in files."
            for name, mark in marks
            if mark
        ]


@asynccontextmanager
async def playbook_server(project: Project) -> AsyncGenerator[str]:
    """Serve the project's scripted models on loopback; yields the address.

    Raises:
        ConfigError: if a playbook cannot be read, or two have the same name.
    """
    books = {book.name: book for book in reversed([load_playbook(file) for file in project.playbook_files()])}
    async with PlaybookServer(books.values()) as server:
        yield server.url


@asynccontextmanager
async def serve(
    project: Project,
    roles: Sequence[RoleName],
    credentials: Credentials,
    *,
    lock: WorkerLock,
    registry: Registry | None = None,
) -> AsyncGenerator[ActorProcess]:
    """Run ``roles`` in this process while the block runs; ``lock`` holds the name of the worker.

    Raises:
        ConfigError: if the project cannot be used; ``Unreachable`` if the broker does not answer.
    """
    secrets = (*project.secret_values().values(), *_model_keys(project))
    lock.record_roles(roles)
    tools = registry if registry is not None or "executor" not in roles else load_tools(project)
    async with AsyncExitStack() as stack:
        role_credentials: dict[RoleName, Credential] = {role: credentials[role] for role in roles}
        backend = await JetStreamBackend.open(role_credentials, name=lock.name)
        stack.push_async_callback(backend.aclose)
        workers, older = (
            backend.bucket(roles[0], each) for each in (stream_names.WORKERS_BUCKET, stream_names.SHARED_BUCKET)
        )
        config = ProcessSettings(
            spans=_make_spans(stack),
            worker=await next_incarnation(workers, lock.name, older=older),
            build=project.build,
            account_limits=project.config.accounts,
            limits=project.config.worker,
            people={name: Person(name=name, public_key=key) for name, key in project.config.people.items()},
            secrets=secrets,
            tools=tools.contracts() if tools is not None and "executor" in roles else (),
            checks=_result_checks(load_tools(project) if tools is None and "validator" in roles else tools),
            signer=load_checkpoint_signer(project.directory / "credentials", utc_now) if "recorder" in roles else None,
            directory=project.directory,
        )
        caller = None
        if "planner" in roles:
            make_importable(project)
            url = await stack.enter_async_context(playbook_server(project))
            caller = Requester(on_delta=publish_deltas(backend.publisher("planner")), base_urls={PLAYBOOK: url})
            stack.push_async_callback(caller.aclose)
        runner = _make_runner(project, tools, secrets) if tools is not None and "executor" in roles else None
        archive = _make_writer(project, credentials["recorder"]) if "recorder" in roles else None
        role_actors = [make_role(role, requester=caller, runner=runner) for role in roles]
        process = ActorProcess(backend, role_actors, config, archive=archive)
        beside = await stack.enter_async_context(anyio.create_task_group())
        beside.start_soon(_touch_lock_forever, lock)
        stack.callback(beside.cancel_scope.cancel)
        stack.enter_context(rare_collections())
        running = await stack.enter_async_context(process.running())
        if caller is not None:
            # The process serves meanwhile; a model request that is the first to need an SDK waits for it.
            beside.start_soon(_import_sdks, project)
        yield running


def _make_writer(project: Project, recorder: Credential) -> Writer:
    path, days = project.directory / ARCHIVE_FILE, project.config.keep.archive_days
    return Writer(path, recorder, database_days=days)


def workspaces(project: Project) -> Path:
    """The folder that holds one folder for each run."""
    return project.directory / "workspaces"


def _make_runner(project: Project, registry: Registry, secrets: tuple[str, ...]) -> ToolRunner:
    folder = workspaces(project)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    runner = RegistryRunner(
        registry,
        folder,
        egress=EgressPolicy(allow=project.config.egress.allow),
        limits=PerformLimits(redactor=Redactor(secrets)),
    )
    return DryRunner(runner) if project.describes_effects else runner


def publish_deltas(publisher: Publisher) -> OnModelDelta:
    """Publish the text of models to every listener as it arrives."""

    async def on_delta(work: ModelWork, text: str, offset: int) -> None:
        place = DeltaSubject(tenant=TenantId(work.tenant), run=RunId(work.run), turn=work.turn, attempt=work.attempt)
        await publisher.delta(place, text, offset=offset)

    return on_delta


def _result_checks(registry: Registry | None) -> dict[str, ResultCheck]:
    tools = registry.tools() if registry else ()
    return {tool.name: _result_check(tool) for tool in tools if tool.check is not None}


def _result_check(tool: AnyTool) -> ResultCheck:
    def check(result: str) -> tuple[str, ...]:
        try:
            value = msgspec.json.decode(result)
        except msgspec.DecodeError:
            # A result that is plain text is stored in the log as it is, without quotes.
            value = result
        except RecursionError:
            return ("The result is nested too deeply to be checked: return one with fewer levels.",)
        return run_check(tool, value)

    return check


async def _import_sdks(project: Project) -> None:
    """Import the SDKs of the folder's agents before a run needs them."""
    for table in _model_tables(project):
        await anyio.to_thread.run_sync(import_sdk, str(table.get("model", "")), abandon_on_cancel=True)
    spare_existing_objects()


def _model_keys(project: Project) -> Iterator[str]:
    """The API keys that the folder's agents name in ``api_key_env``; they are secrets like the others."""
    for table in _model_tables(project):
        if key := os.environ.get(str(table.get("api_key_env", "")), "").strip():
            yield key


def _model_tables(project: Project) -> Iterator[dict[str, Any]]:
    """The tables of the models in the agents' files, as they are written."""
    for file in project.agent_files():
        table = read_toml(file)
        yield table
        if isinstance(table.get("fallbacks"), list):  # else the file is refused where it is read
            for entry in table["fallbacks"]:
                yield entry if isinstance(entry, dict) else {"model": entry}


async def _touch_lock_forever(lock: WorkerLock) -> None:
    while True:
        lock.touch()
        await anyio.sleep(LOCK_TOUCH_EVERY_S)


def _make_spans(stack: AsyncExitStack) -> Spans | None:
    """Spans to the OTLP endpoint of the environment, closed with the process; the SDK is loaded only if one is set."""
    if not any(name.startswith("OTEL_EXPORTER_OTLP_") for name in os.environ):
        return None
    from linestop.runtime.tracing import spans_from_environment  # noqa: PLC0415 - see above

    spans = spans_from_environment()
    if spans is not None:
        stack.callback(spans.close)
    return spans
