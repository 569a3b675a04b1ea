"""The client for programs without an event loop: the same methods, blocking."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, Final, Generic, ParamSpec, Self, TypeVar, Unpack, overload

from anyio.from_thread import BlockingPortal, start_blocking_portal

from linestop.bus.access.rights import CredentialName
from linestop.client.client import Client, TaskOptions
from linestop.client.credentials import Identity, identify
from linestop.client.outcome import Outcome
from linestop.client.outcome_listener import Alert, HasPosition, Listener
from linestop.client.token_stream import Token
from linestop.errors import InputError
from linestop.schemas.defaults import DEFAULT_TENANT
from linestop.schemas.run.fold import Run
from linestop.schemas.run.state import Entry

_NOT_ENTERED: Final = "The client is not connected: use it as `with SyncClient.connect(...) as client`."

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
M = TypeVar("M", bound=HasPosition)


def _blocking(
    method: Callable[Concatenate[Client, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[SyncClient, P], R]:
    """Return the method as a blocking one that runs in the background loop."""

    def blocking(self: SyncClient, /, *args: P.args, **kwargs: P.kwargs) -> R:
        async def work() -> R:
            return await method(self.client, *args, **kwargs)

        return self.portal.call(work)

    functools.update_wrapper(blocking, method)
    return blocking


async def _next(source: AsyncIterator[R]) -> R | None:
    return await anext(source, None)


class SyncListener(Generic[M]):
    """A ``Listener`` for programs without an event loop: an iterator and a context manager."""

    def __init__(self, portal: BlockingPortal, listener: Listener[M]) -> None:
        self._portal = portal
        self._listener = listener

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> M:
        """Count the previous message as handled and wait for the next; errors as ``Listener.__anext__``."""
        found: M | None = self._portal.call(_next, self._listener)
        if found is None:
            raise StopIteration
        return found

    def save(self) -> None:
        """Count every message that was returned as handled. A listener without a name stores nothing."""
        self._portal.call(self._listener.save)

    def close(self) -> None:
        """Stop listening; the message that was returned last does not count as handled."""
        self._portal.call(self._listener.aclose)

    def __enter__(self) -> Self:
        self._portal.call(self._listener.__aenter__)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._portal.call(self._listener.__aexit__, kind, error, trace)


class SyncClient:
    """A ``Client`` whose event loop runs in a background thread; a context manager.

    Several threads may use it. Interrupting a method (Ctrl-C) leaves the run as it is.
    """

    def __init__(self, identity: Identity, *, name: str = "linestop client") -> None:
        self._identity = identity
        self._name = name
        self._stack = contextlib.ExitStack()
        self._portal: BlockingPortal | None = None
        self._client: Client | None = None

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
        """Choose the credential; the connection is made on entering. Arguments and errors as ``Client.connect``."""
        return cls(identify(where, as_=as_, url=url, user=user, password=password, seed=seed))

    @property
    def portal(self) -> BlockingPortal:
        """The portal into the background loop."""
        if self._portal is None:
            raise InputError(_NOT_ENTERED)
        return self._portal

    @property
    def client(self) -> Client:
        """The client in the background loop."""
        if self._client is None:
            raise InputError(_NOT_ENTERED)
        return self._client

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            self._portal = stack.enter_context(start_blocking_portal("asyncio"))
            client = Client(self._identity, name=self._name)
            self._portal.call(client.open)
            stack.callback(self._portal.call, client.close)
            self._client = client
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._portal = self._client = None

    submit = _blocking(Client.submit)
    run = _blocking(Client.run)
    runs = _blocking(Client.runs)
    text = _blocking(Client.text)
    stop = _blocking(Client.stop)
    pause = _blocking(Client.pause)
    resume = _blocking(Client.resume)
    approvals = _blocking(Client.approvals)
    questions = _blocking(Client.questions)
    approve = _blocking(Client.approve)
    deny = _blocking(Client.deny)
    edit = _blocking(Client.edit)
    answer = _blocking(Client.answer)
    event = _blocking(Client.event)
    resolve = _blocking(Client.resolve)
    dead_letters = _blocking(Client.dead_letters)
    dead_letter = _blocking(Client.dead_letter)
    requeue = _blocking(Client.requeue)

    @overload
    def execute(
        self,
        agent: str,
        text: str,
        *,
        output: type[T],
        timeout_s: float | None = None,
        tenant: str = DEFAULT_TENANT,
        **options: Unpack[TaskOptions],
    ) -> Outcome[T]: ...

    @overload
    def execute(
        self,
        agent: str,
        text: str,
        *,
        timeout_s: float | None = None,
        tenant: str = DEFAULT_TENANT,
        **options: Unpack[TaskOptions],
    ) -> Outcome[Any]: ...

    def execute(
        self,
        agent: str,
        text: str,
        *,
        output: Any = None,
        timeout_s: float | None = None,
        tenant: str = DEFAULT_TENANT,
        **options: Unpack[TaskOptions],
    ) -> Outcome[Any]:
        """Give an agent a task and wait until its run is over, as ``Client.execute`` does."""

        async def work() -> Outcome[Any]:
            return await self.client.execute(agent, text, output=output, timeout_s=timeout_s, tenant=tenant, **options)

        return self.portal.call(work)

    @overload
    def outcome(
        self, run: str, *, output: type[T], timeout_s: float | None = None, tenant: str = DEFAULT_TENANT
    ) -> Outcome[T]: ...

    @overload
    def outcome(self, run: str, *, timeout_s: float | None = None, tenant: str = DEFAULT_TENANT) -> Outcome[Any]: ...

    def outcome(
        self, run: str, *, output: Any = None, timeout_s: float | None = None, tenant: str = DEFAULT_TENANT
    ) -> Outcome[Any]:
        """Wait until the run is over and return its outcome, as ``Client.outcome`` does."""

        async def work() -> Outcome[Any]:
            return await self.client.outcome(run, output=output, timeout_s=timeout_s, tenant=tenant)

        return self.portal.call(work)

    def stream(self, run: str, *, tenant: str = DEFAULT_TENANT) -> Generator[Token]:
        """The text of the run's model, as ``Client.stream`` yields it. Closing the generator unsubscribes."""
        return self._iterate(self.client.stream(run, tenant=tenant))

    @overload
    def outcomes(
        self, *, output: type[T], agent: str = "", tenant: str = "", position: str = "", after: int | None = None
    ) -> SyncListener[Outcome[T]]: ...

    @overload
    def outcomes(
        self, *, agent: str = "", tenant: str = "", position: str = "", after: int | None = None
    ) -> SyncListener[Outcome[Any]]: ...

    def outcomes(
        self, *, output: Any = None, agent: str = "", tenant: str = "", position: str = "", after: int | None = None
    ) -> SyncListener[Outcome[Any]]:
        """The outcomes of runs, as ``Client.outcomes`` returns them; use ``with`` instead of ``async with``."""
        source = self.client.outcomes(output=output, agent=agent, tenant=tenant, position=position, after=after)
        return SyncListener(self.portal, source)

    def alerts(self, *, tenant: str = "", position: str = "", after: int | None = None) -> SyncListener[Alert]:
        """The alerts, as ``Client.alerts`` returns them; use ``with`` instead of ``async with``."""
        return SyncListener(self.portal, self.client.alerts(tenant=tenant, position=position, after=after))

    def events(
        self, run: str, *, after_n: int = 0, follow: bool = False, tenant: str = DEFAULT_TENANT
    ) -> Generator[Entry]:
        """The run's entries, as ``Client.events`` yields them. Closing the generator unsubscribes."""
        return self._iterate(self.client.events(run, after_n=after_n, follow=follow, tenant=tenant))

    def watch(
        self, run: str, *, after_n: int = 0, follow: bool = True, tenant: str = DEFAULT_TENANT
    ) -> Generator[tuple[Run, Entry]]:
        """The run folded up to each entry, as ``Client.watch`` yields it. Closing the generator unsubscribes."""
        return self._iterate(self.client.watch(run, after_n=after_n, follow=follow, tenant=tenant))

    def _iterate(self, source: AsyncGenerator[R]) -> Generator[R]:
        portal = self.portal
        try:
            while (item := portal.call(_next, source)) is not None:
                yield item
        finally:
            portal.call(source.aclose)
