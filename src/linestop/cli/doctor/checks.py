"""``doctor`` and ``health``: checks of this machine, this project, the broker and the workers.

A check is a function that returns one sentence, or raises an error with one. No check changes anything.
"""

from __future__ import annotations

import functools
import os
import shutil
import sys
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import anyio
import msgspec

from linestop.bus import jetstream_api
from linestop.bus.access.credentials import credential_path, load_credential
from linestop.bus.access.rights import CREDENTIALS, CredentialName
from linestop.bus.connection import Connection, connect
from linestop.bus.jetstream import JetStream
from linestop.bus.server.process import server_program
from linestop.bus.streams import stream_names
from linestop.bus.streams.create_streams import compare
from linestop.cli.doctor.stream_checks import (
    CheckWarning,
    broker_log_hint,
    check_disk,
    check_log,
    check_replicas,
    check_space,
)
from linestop.cli.doctor.worker_checks import check_roles
from linestop.cli.project_contents import (
    load_project_agents,
    load_tools,
    missing_keys,
    missing_playbooks,
    stored_credentials,
)
from linestop.cli.runs.closed_switches import closed_sentence
from linestop.client.kill_switches import KillSwitchClient
from linestop.config.project_file import ENVIRONMENT, Project, load_project
from linestop.errors import LinestopError, NotFound, RetryableError, Unreachable
from linestop.runtime.workers.worker_names import is_locked, lock_path, locked_names
from linestop.sandbox.tools.contract_lint import lint_contracts
from linestop.sandbox.tools.registry import Registry
from linestop.schemas.defaults import CLOCK_TO_WARN_S
from linestop.schemas.subjects import RoleName

PYTHON_MIN: Final = (3, 11)
LOCK_UNTOUCHED_MAX_S: Final = 30.0
DIFFERENCES_SHOWN: Final = 3
SANDBOXES: Final = ("docker", "bwrap", "runsc")
STREAM_READERS: Final[tuple[CredentialName, ...]] = ("bootstrap", "operator")
"""The credentials that may read the state of the streams and their replicas; see the permission table."""
Level = Literal["ok", "warning", "error"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one check; ``code`` is the code of the error, if the check failed."""

    check: str
    level: Level
    sentence: str
    code: str = ""


def health_checks(project: Project, workers: Sequence[str]) -> list[tuple[str, Callable[[], str]]]:
    """The checks of ``health``, each with its name: the broker, and the named workers, or else all roles."""
    # A health check of one worker must not fail because another worker is missing.
    all_roles = () if workers else (("roles", lambda: anyio.run(_workers_sentence, project)),)
    return [
        *((f"worker {name}", functools.partial(check_worker, project.directory, name)) for name in workers),
        ("broker", lambda: anyio.run(_broker_sentence, project)),
        *all_roles,
    ]


def names_with_role(directory: Path, role: RoleName) -> list[str]:
    """The names of the workers here that have a role.

    Raises:
        NotFound: there is none.
    """
    names = locked_names(directory, role)
    if not names:
        raise NotFound(
            f"No worker with the role {role} runs on this host with the state folder {directory}: start one."
        )
    return names


def check_worker(directory: Path, name: str) -> str:
    """Check that the worker holds its name and its event loop runs.

    Raises:
        NotFound: no process holds the name.
        RetryableError: the process that holds it hangs.
    """
    if not is_locked(directory, name):
        raise NotFound(f"No worker called {name} runs with the state folder {directory}: start it.")
    untouched_s = time.time() - lock_path(directory, name).stat().st_mtime
    if untouched_s > LOCK_UNTOUCHED_MAX_S:
        raise RetryableError(f"The worker {name} has not responded for {untouched_s:.0f} s; restart it.")
    return f"The worker {name} is alive."


def machine_findings() -> Iterator[Finding]:
    """The checks of this machine."""
    yield _finding("python", _check_python)
    yield _finding("nats-server", lambda: f"{server_program()}")
    yield _finding("sandboxes", _check_sandboxes)
    yield _finding("traces", _check_traces)


def project_findings(nats: str | None, *, code: bool) -> Iterator[Finding]:
    """Check the project, as far as one finding allows the next; without ``code`` none of its Python is imported."""
    try:
        project = load_project().with_broker(nats)
    except LinestopError as error:
        yield _error_finding("project", error)
        return
    where = project.file or "all defaults, because there is no linestop.toml"
    yield Finding(check="project", level="ok", sentence=f"{where} (profile {project.config.profile})")
    yield _finding("environment", _check_environment)
    yield _finding("secrets", lambda: _check_secrets(project))
    registry: list[Registry] = []
    if code:
        yield _finding("tools", lambda: _check_tools(project, registry))
    if registry:
        yield _finding("agents", lambda: _check_agents(project, registry[0]))
        yield _finding("playbooks", lambda: _check_playbooks(project, registry[0]))
        yield _finding("model keys", lambda: _check_keys(project, registry[0]))
    yield _finding("credentials", lambda: _check_credentials(project))
    yield _finding("disk", lambda: check_disk(project.directory))
    yield from anyio.run(_broker_findings, project)


def _error_finding(check: str, error: LinestopError) -> Finding:
    return Finding(check=check, level="error", sentence=str(error), code=error.code)


def _finding(check: str, run_check: Callable[[], str]) -> Finding:
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DeprecationWarning)
            sentence = run_check()
    except CheckWarning as warning:
        return Finding(check=check, level="warning", sentence=str(warning))
    except LinestopError as error:
        return _error_finding(check, error)
    if caught:
        return Finding(check=check, level="warning", sentence=f"{sentence}; deprecated: {caught[0].message}")
    return Finding(check=check, level="ok", sentence=sentence)


def _check_python() -> str:
    version = ".".join(str(part) for part in sys.version_info[:3])
    if sys.version_info < PYTHON_MIN:
        raise LinestopError(f"{version} is too old: linestop needs at least {PYTHON_MIN[0]}.{PYTHON_MIN[1]}.")
    return f"{version} in {sys.prefix}"


def _check_sandboxes() -> str:
    found = [name for name in SANDBOXES if shutil.which(name)]
    return (
        f"{', '.join(found) or 'none'} on PATH; tools in Python need no sandbox, and code that a model wrote is not run"
    )


def _check_traces() -> str:
    if not any(name.startswith("OTEL_EXPORTER_OTLP_") for name in os.environ):
        return "no OTLP endpoint is set, so no spans are sent"
    from linestop.runtime.tracing import spans_from_environment  # noqa: PLC0415 - the SDK is loaded only if spans are sent

    spans = spans_from_environment()
    if spans is None:
        return "the environment switches spans off"
    spans.close()
    return "spans are sent to the OTLP endpoint of the environment"


def _check_environment() -> str:
    unknown = sorted(name for name in os.environ if name.startswith("LINESTOP_") and name not in ENVIRONMENT)
    if unknown:
        raise CheckWarning(f"{unknown[0]} is not a variable of linestop; there is {', '.join(ENVIRONMENT)}")
    used = [name for name in ENVIRONMENT if name in os.environ]
    return f"{', '.join(used)} set" if used else "no variable overrides the configuration"


def _check_secrets(project: Project) -> str:
    found = project.secret_values()
    return f"{len(found)} known; their values are removed from tool results and from the texts of models"


def _check_tools(project: Project, registry: list[Registry]) -> str:
    registry.append(load_tools(project))
    registered = registry[0]
    findings = [
        finding
        for finding in lint_contracts(registered.contracts(), without_tier=registered.without_tier())
        if finding.level == "error"
    ]
    if findings:
        raise CheckWarning(f"{findings[0].tool} {findings[0].message}; `linestop tools lint` shows all")
    return f"{len(registered)} known"


def _check_agents(project: Project, registry: Registry) -> str:
    """Load the agents, which fails if a model has no price."""
    agents = load_project_agents(project, registry)
    return f"{', '.join(agent.name for agent in agents)}; every model has a price"


def _check_playbooks(project: Project, registry: Registry) -> str:
    if missing := missing_playbooks(project, load_project_agents(project, registry)):
        raise CheckWarning(" ".join(missing))
    return "every scripted model that an agent names exists"


def _check_keys(project: Project, registry: Registry) -> str:
    if missing := missing_keys(load_project_agents(project, registry)):
        raise CheckWarning(" ".join(missing))
    return "every key that the agents' models need is set"


def _check_credentials(project: Project) -> str:
    paths = [credential_path(project.directory, name) for name in CREDENTIALS]
    found = [path for path in paths if path.exists()]
    for path in found:
        load_credential(path)
    if not found:
        raise CheckWarning(f"none in {project.directory} yet; `linestop dev` and `linestop bus init` create them")
    return f"{len(found)} of {len(paths)} in {project.directory}, readable by their owner only"


async def _broker_findings(project: Project) -> list[Finding]:
    """Check the broker as far as a credential of this machine permits: those of the operator and of set-up see all."""
    name = _first_credential(project, (*STREAM_READERS, *CREDENTIALS))
    if name is None:
        return []
    findings: list[Finding] = []
    logs = broker_log_hint(project.directory)
    try:
        credential = stored_credentials(project, [name])[name]
        async with await connect(credential, name="linestop doctor") as connection:
            findings.append(Finding(check="broker", level="ok", sentence=f"answers at {credential.url}{logs}"))
            findings.append(_finding("messages", lambda: _check_messages(connection)))
            findings.append(await _async_finding("log", lambda: _check_log(project)))
            findings += await _stream_findings(connection, name)
            # Without streams, or with a broker that does not store, no worker can send a heartbeat.
            if all(each.level != "error" for each in findings if each.check in {"streams", "log"}):
                findings.append(await _async_finding("workers", lambda: check_roles(connection)))
        if all(each.level != "error" for each in findings if each.check == "streams"):
            findings.append(await _async_finding("kill switches", lambda: _check_switches(project)))
    except LinestopError as error:
        findings.append(_error_finding("broker", error))
    return findings


async def _stream_findings(connection: Connection, name: CredentialName) -> list[Finding]:
    if name not in STREAM_READERS:
        sentence = (
            f"the streams, their replicas and the broker's clock were not checked: the credential '{name}' may not see "
            f"them. Run `linestop doctor` where the credential '{STREAM_READERS[1]}' is."
        )
        return [Finding(check="streams", level="warning", sentence=sentence)]
    return [
        await _async_finding("streams", lambda: _check_streams(connection)),
        await _async_finding("space", lambda: check_space(connection)),
        await _async_finding("replicas", lambda: check_replicas(connection)),
        await _async_finding("clock", lambda: _check_clock(connection)),
    ]


async def _async_finding(check: str, run_check: Callable[[], Awaitable[str]]) -> Finding:
    try:
        return Finding(check=check, level="ok", sentence=await run_check())
    except CheckWarning as warning:
        return Finding(check=check, level="warning", sentence=str(warning))
    except LinestopError as error:
        return _error_finding(check, error)


def _check_messages(connection: Connection) -> str:
    connection.require_payload()
    return f"the broker accepts up to {connection.nc.max_payload:,} bytes"


async def _check_streams(connection: Connection) -> str:
    """Compare the streams with what linestop needs. A missing one is named, not created."""
    differences = await compare(connection)
    if differences:
        more = f" (And {len(differences) - DIFFERENCES_SHOWN} more.)" if len(differences) > DIFFERENCES_SHOWN else ""
        raise LinestopError(" ".join(differences[:DIFFERENCES_SHOWN]) + more)
    return "all exist and are configured as linestop needs them"


async def _check_switches(project: Project) -> str:
    """Name the closed kill switches: they may be why nothing starts."""
    if not credential_path(project.directory, "operator").exists():
        raise CheckWarning("the operator's credential is needed to read them, and there is none here")
    credential = stored_credentials(project, ["operator"])["operator"]
    async with await connect(credential, name="linestop doctor") as connection:
        closed = await KillSwitchClient(JetStream(connection).kill_switches()).closed()
    if closed:
        raise CheckWarning(closed_sentence(closed))
    return "none is closed"


async def _check_clock(connection: Connection) -> str:
    """Compare this machine's clock with the broker's, by the time in its reply."""
    before = datetime.now(UTC)
    reply = await connection.api_request(jetstream_api.stream_info(stream_names.RUNS))
    after = datetime.now(UTC)
    broker_time = msgspec.convert(reply["ts"], datetime)
    off_s = max((before - broker_time).total_seconds(), (broker_time - after).total_seconds(), 0.0)
    if off_s > CLOCK_TO_WARN_S:
        raise CheckWarning(f"the clocks of this machine and the broker differ by {off_s:.1f} s: synchronise them")
    return "agrees with the broker's clock"


async def _check_log(project: Project) -> str:
    """Store and read back a message, as a role if its credential is here, because a role may also read RUNS."""
    name = _any_credential(project)
    credential = stored_credentials(project, [name])[name]
    async with await connect(credential, name="linestop doctor") as connection:
        return await check_log(connection, project.directory)


async def _broker_sentence(project: Project) -> str:
    name = _any_credential(project)
    credential = stored_credentials(project, [name])[name]
    async with await connect(credential, name="linestop health") as connection:
        try:
            stores = await check_log(connection, project.directory)
        except CheckWarning as warning:
            stores = str(warning)
        return f"The broker at {credential.url} answers: it {stores}."


async def _workers_sentence(project: Project) -> str:
    name = _any_credential(project)
    credential = stored_credentials(project, [name])[name]
    async with await connect(credential, name="linestop health") as connection:
        try:
            sentence = await check_roles(connection)
        except CheckWarning as warning:
            sentence = str(warning)
    return f"Workers: {sentence}."


def _any_credential(project: Project) -> CredentialName:
    if (name := _first_credential(project, CREDENTIALS)) is None:
        raise Unreachable(f"There is no credential in {project.directory}: run `linestop dev` or `linestop bus init`.")
    return name


def _first_credential(project: Project, names: Sequence[CredentialName]) -> CredentialName | None:
    return next((name for name in names if credential_path(project.directory, name).exists()), None)
