"""Reading runs: one or many, as they are now or as they continue. Reads the log and folds it; changes nothing."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar

import anyio
import msgspec

from linestop import clock
from linestop.bus import jetstream_api
from linestop.bus.access.rights import CredentialName
from linestop.bus.connection import Connection, connect
from linestop.bus.disk_space import is_embedded_broker
from linestop.bus.interfaces import StoredMessage
from linestop.bus.jetstream import JetStream
from linestop.bus.jetstream.reads import Reader
from linestop.bus.stores.worker_heartbeats import WorkerStatus, workers
from linestop.bus.streams import stream_names
from linestop.client.archived_runs import RunArchive
from linestop.client.credentials import Identity, default_person, identify
from linestop.client.result_types import OpenQuestion, RunLine, blobs_in_questions, open_questions, run_line
from linestop.client.run_names import Key, begun_runs, named_runs, nearest_runs
from linestop.client.sender import Sender
from linestop.client.stop import no_such_run
from linestop.client.waiting import watch_hints
from linestop.client.what_a_run_waits_for import Wait, waits
from linestop.errors import InputError, LinestopError, NotFound, Unreachable
from linestop.schemas import subjects
from linestop.schemas.broker_defaults import BROKER_CONNECT_TIMEOUT_S
from linestop.schemas.defaults import DEFAULT_TENANT
from linestop.schemas.events import Text
from linestop.schemas.json_values import JsonObject
from linestop.schemas.run.fold import Run
from linestop.schemas.run.state import Entry
from linestop.schemas.subject_filters import FIRST_EVENTS, first_event_filter
from linestop.schemas.subjects import RunId, TenantId, check_name

CONCURRENT_READS_MAX: Final = 16
"""How many runs are read concurrently."""

RUNS_SHOWN: Final = 50
CANDIDATES_SHOWN: Final = 5
LAST_RUN: Final = "last"
"""The name for the newest run, wherever a person names a run."""

WINDOW_MESSAGES: Final = 5_000
"""How far back in the log the newest runs are searched at first; four times as far at each further try."""

_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)
T = TypeVar("T")


class RunReader:
    """A connection that can read runs. ``Client`` can also send tasks and control messages."""

    def __init__(self, identity: Identity, *, name: str = "linestop client") -> None:
        self.identity = identity
        self.person = default_person()
        """The name for decisions if none is given."""
        self.name = name
        self._connection: Connection | None = None
        self._jetstream: JetStream | None = None
        self._sender: Sender | None = None
        self._archive = RunArchive(identity.people.parent if identity.people is not None else None)

    @classmethod
    def connect(  # noqa: PLR0913 - three ways to give a credential
        cls,
        where: str | Path | None = None,
        *,
        as_: CredentialName = "client",
        url: str = "",
        user: str = "",
        password: str = "",
        seed: str = "",
    ) -> Self:
        """Choose the credential; the connection is made on entering.

        Args:
            where: A state directory or a credential file; by default ``LINESTOP_DIR``, else ``.linestop``.
            as_: Which credential of a state directory: ``client`` submits, watches and stops; ``operator``
                also decides, and stops even if no actor is alive.
            url: Address of the broker, with ``user`` and ``seed``, instead of a file.
            user: Name of the credential.
            password: Its password, where the broker was set up by an older linestop. It is sent in clear.
            seed: The seed of its key, which is not sent.

        Raises:
            ConfigError: there is no such directory or file, or the file is damaged.
            InputError: ``url`` without a known user and a seed.
        """
        return cls(identify(where, as_=as_, url=url, user=user, password=password, seed=seed))

    async def open(self, *, timeout_s: float = BROKER_CONNECT_TIMEOUT_S) -> None:
        """Connect; wait at most ``timeout_s`` for a broker that does not answer.

        Raises:
            Unreachable: the broker does not answer.
            PermissionDenied: the broker does not accept the credential.
        """
        try:
            self._connection = await connect(self.identity.credential, name=self.name, timeout_s=timeout_s)
        except Unreachable as error:
            if self._is_embedded_broker():
                raise Unreachable(f"{error} Here `linestop dev` starts it.") from None
            raise
        try:
            self._jetstream = JetStream(self._connection)
        except BaseException:
            await self._connection.close()
            raise
        self._sender = Sender(self._connection, self._jetstream.wire, self.identity.people)

    def _is_embedded_broker(self) -> bool:
        people = self.identity.people
        return people is not None and is_embedded_broker(people.parent, self.identity.credential.url)

    async def close(self) -> None:
        """Close the connection; submitted tasks continue."""
        if self._connection is not None:
            await self._connection.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def bus(self) -> JetStream:
        """The bus with the permissions of this credential.

        Raises:
            InputError: the client is not connected.
        """
        if self._jetstream is None:
            raise InputError("The client is not connected: use it as `async with Client.connect(...) as client`.")
        return self._jetstream

    @property
    def connected(self) -> bool:
        """Whether the broker can be reached at this moment; a lost connection is restored automatically."""
        return self._connection is not None and self._connection.connected

    # --- one run -----------------------------------------------------------------------------------------

    async def run(self, run: str, *, tenant: str = DEFAULT_TENANT) -> Run:
        """The run, folded from its log as it is now.

        Raises:
            NotFound: the run has no event.
        """
        state = await self._fold(as_tenant(tenant), as_run(run))
        if not state.entries:
            raise no_such_run(state.tenant, state.run)
        return state

    async def find_run(self, text: str, *, tenant: str = DEFAULT_TENANT) -> RunId:
        """The run that a person means by ``last`` (the newest run) or by the beginning of an id.

        A run that was stopped before it began is left out: nobody means it by ``last`` or a prefix.

        Raises:
            NotFound: there is no such run.
            InputError: several ids begin with ``text``.
        """
        if text == LAST_RUN:
            newest = await self._newest_runs(1, as_tenant(tenant), begun_only=True)
            if not newest:
                raise NotFound(f"There is no run of tenant '{tenant}' yet.")
            return newest[-1][1]
        begun = sorted(run for _, run in await self._begun_runs(as_tenant(tenant)) if run.startswith(text))
        if text in begun:
            return RunId(text)
        if len(begun) > 1:
            shown = ", ".join(begun[:CANDIDATES_SHOWN]) + (" …" if len(begun) > CANDIDATES_SHOWN else "")
            raise InputError(f"{len(begun)} runs begin with '{text}': {shown}; write more of the id.")
        if not begun:
            raise NotFound(f"There is no run '{text}' of tenant '{tenant}'; `linestop runs` lists them.")
        return begun[0]

    async def open_runs_like(self, text: str, *, tenant: str = DEFAULT_TENANT) -> list[RunId]:
        """A few open runs of the tenant to suggest instead of a run that does not exist, the most similar ids first."""
        begun = set(await self._begun_runs(as_tenant(tenant)))
        return nearest_runs(text, [key[1] for key in await self.bus.log().open_runs() if key in begun])

    async def events(
        self, run: str, *, after_n: int = 0, follow: bool = False, tenant: str = DEFAULT_TENANT
    ) -> AsyncGenerator[Entry]:
        """Yield the run's entries after event ``after_n``, in order and without a gap, also over reconnects.

        An entry of the chain has its decoded ``event``, or none and the reason in ``ignored``; a message that
        is not part of the chain has ``n`` 0. With ``follow`` this continues until the run is sealed, and may start
        before the run's first event.

        Raises:
            NotFound: the run has no event; never with ``follow``.
        """
        async with contextlib.aclosing(self.watch(run, after_n=after_n, follow=follow, tenant=tenant)) as states:
            async for _, entry in states:
                yield entry

    async def watch(
        self, run: str, *, after_n: int = 0, follow: bool = True, tenant: str = DEFAULT_TENANT
    ) -> AsyncGenerator[tuple[Run, Entry]]:
        """As ``events``, with the run folded up to each entry: always the same object, which changes.

        Raises:
            NotFound: as ``events``.
        """
        state = Run(as_tenant(tenant), as_run(run))
        log = self.bus.log()
        async with watch_hints(
            self.bus.wire, subjects.live_subject(subjects.run_filter(state.tenant, state.run))
        ) as new_messages:
            while True:
                for message in await self._archive.load(log, state.tenant, state.run, after_seq=state.head_seq):
                    is_after = state.n >= after_n
                    entry = state.apply(message.subject, message.payload, message.seq)
                    if is_after:
                        yield state, entry
                if state.sealed or not follow:
                    break
                await new_messages.wait(state.head_seq)
        if not state.entries:
            raise no_such_run(state.tenant, state.run)

    async def text(self, text: Text, *, tenant: str = DEFAULT_TENANT) -> str:
        """The text itself, fetched if it is stored as a blob.

        Raises:
            NotFound: the blob is not stored.
        """
        if isinstance(text, str):
            return text
        return (await self.bus.blobs().get(as_tenant(tenant), text.sha256)).decode(errors="replace")

    async def questions(self, run: str, *, tenant: str = DEFAULT_TENANT) -> list[OpenQuestion]:
        """The questions of this run that a person must decide.

        Raises:
            NotFound: there is no such run.
        """
        return await self.questions_of(await self.run(run, tenant=tenant))

    # --- many runs ---------------------------------------------------------------------------------------

    async def runs(self, *, limit: int = RUNS_SHOWN, open_only: bool = False, tenant: str = "") -> list[RunLine]:
        """The newest runs, newest first; of all tenants unless one is named."""
        if tenant:
            check_name("tenant", tenant)
        keys = await self.bus.log().open_runs() if open_only else await self._newest_runs(limit, tenant)
        if not open_only and len(keys) < limit:
            keys = [*keys, *await self._archived_runs(limit, set(keys))]

        async def line(key: Key) -> RunLine:
            return run_line(await self._fold(*key))

        lines = await _map_concurrently([key for key in keys if not tenant or key[0] == tenant], line)
        lines.sort(key=lambda line: line.opened_at or line.last_at or _LONG_AGO, reverse=True)
        return lines[:limit]

    async def _archived_runs(self, limit: int, known: set[Key]) -> list[Key]:
        """Runs that began before the log's oldest event."""
        info = await Reader(self.bus.wire, stream_names.RUNS).info()
        before_seq = info.state.first_seq if info.state else 0
        archived = await self._archive.newest(before_seq=before_seq, limit=limit) if before_seq > 1 else []
        return [key for key in archived if key not in known]

    async def newest(self, limit: int, *, tenant: str = DEFAULT_TENANT) -> list[RunId]:
        """The ids of the tenant's newest runs, newest first."""
        return [run for _, run in reversed(await self._newest_runs(limit, as_tenant(tenant)))]

    async def approvals(self, *, tenant: str = "") -> list[OpenQuestion]:
        """The open questions of all open runs that a person must decide, without events; the most urgent first."""
        keys = [key for key in await self.bus.log().open_runs() if not tenant or key[0] == tenant]

        async def read_questions(key: Key) -> list[OpenQuestion]:
            return await self.questions_of(await self._fold(*key))

        for_people = [
            question
            for questions in await _map_concurrently(keys, read_questions)
            for question in questions
            if question.kind != "event"
        ]
        return sorted(for_people, key=lambda question: question.expires_at)

    async def workers(self) -> list[WorkerStatus]:
        """The workers that have sent a heartbeat, by role and name, each with whether it is alive.

        A worker that missed three heartbeats, one every 2 s by the broker's clock, is presumed dead.
        """
        return await read_workers(self.bus)

    async def waits_of(self, state: Run) -> list[Wait]:
        """What a folded run waits for; if this credential may not see the workers, none is reported as missing."""
        try:
            known_workers = await self.workers()
        except LinestopError:
            known_workers = None
        return waits(state, clock.now(), known_workers)

    async def tenants(self) -> set[TenantId]:
        """The tenants that have a run in the log."""
        messages = await Reader(self.bus.wire, stream_names.RUNS).read_all(FIRST_EVENTS)
        return {tenant for tenant, _ in begun_runs([message.subject for message in messages])}

    async def _begun_runs(self, tenant: TenantId) -> list[Key]:
        messages = await Reader(self.bus.wire, stream_names.RUNS).read_all(first_event_filter(tenant))
        return begun_runs([message.subject for message in messages])

    async def _newest_runs(self, limit: int, tenant: str, *, begun_only: bool = False) -> list[Key]:
        reader = Reader(self.bus.wire, stream_names.RUNS)
        info = await self.bus.connection.api_request(jetstream_api.stream_info(stream_names.RUNS))
        last = int(msgspec.convert(info["state"], JsonObject)["last_seq"])
        window = WINDOW_MESSAGES
        while True:
            messages = await reader.read_all(first_event_filter(tenant), after_seq=max(0, last - window))
            first_events = [message.subject for message in messages]
            keys = begun_runs(first_events) if begun_only else named_runs(first_events)
            if len(keys) >= limit or window >= last:
                return keys[-limit:]
            window *= 4

    async def load(self, tenant: TenantId, run: RunId, *, leader: bool = False) -> list[StoredMessage]:
        """The run's messages, also those that were removed from the log and are in the archive."""
        return await self._archive.load(self.bus.log(), tenant, run, leader=leader)

    async def _fold(self, tenant: TenantId, run: RunId) -> Run:
        state = Run(tenant, run)
        for message in await self.load(tenant, run):
            state.apply(message.subject, message.payload, message.seq)
        return state

    async def questions_of(self, state: Run) -> list[OpenQuestion]:
        """The questions of a folded run; arguments that are stored as blobs are fetched."""
        texts: dict[str, str] = {}
        for ref in blobs_in_questions(state):
            with contextlib.suppress(NotFound):
                texts[ref.sha256] = await self.text(ref, tenant=state.tenant)
        return open_questions(state, texts)


async def read_workers(bus: JetStream) -> list[WorkerStatus]:
    """The workers that have sent a heartbeat to this broker.

    Raises:
        PermissionDenied: the credential may not read them; ``ApiError`` if their bucket is missing.
    """
    stored = await bus.bucket(stream_names.BEATS_BUCKET).values("")
    info = await bus.connection.api_request(
        jetstream_api.stream_info(stream_names.bucket_stream(stream_names.BEATS_BUCKET))
    )
    return workers(stored, msgspec.convert(info["ts"], datetime))


async def _map_concurrently(keys: Sequence[Key], work: Callable[[Key], Awaitable[T]]) -> list[T]:
    """Await ``work`` for every key, at most ``CONCURRENT_READS_MAX`` at a time; results in the order of the keys."""
    results: dict[int, T] = {}

    async def one(index: int) -> None:
        results[index] = await work(keys[index])

    for start in range(0, len(keys), CONCURRENT_READS_MAX):
        try:
            async with anyio.create_task_group() as tasks:
                for index in range(start, min(start + CONCURRENT_READS_MAX, len(keys))):
                    tasks.start_soon(one, index)
        except ExceptionGroup as failures:
            # Concurrent reads fail for one reason; callers expect that error, not a group of errors.
            raise failures.exceptions[0] from failures
    return [results[index] for index in range(len(keys))]


def as_tenant(tenant: str) -> TenantId:
    """The tenant of that name, or ``InputError``."""
    return TenantId(check_name("tenant", tenant))


def as_run(run: str) -> RunId:
    """The run of that id, or ``InputError``."""
    return RunId(check_name("run", run))
