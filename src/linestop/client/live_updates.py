"""Following runs: the text of one run as its model writes it, its outcome, and the outcomes and alerts of all runs."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar, overload

import anyio

from linestop.bus.jetstream.reads import Reader, StreamMessage
from linestop.bus.streams import stream_names
from linestop.client.credentials import Identity
from linestop.client.outcome import Outcome, outcome_as, with_text
from linestop.client.outcome_listener import Alert, HasPosition, Listener, ListenerOptions, read_alert
from linestop.client.run_reader import RunReader, as_run, as_tenant
from linestop.client.token_stream import Token, TokenStream
from linestop.client.waiting import token_feed, watch_hints
from linestop.errors import TimedOut
from linestop.schemas import subjects
from linestop.schemas.defaults import DEFAULT_TENANT
from linestop.schemas.events import BlobRef, Proposed
from linestop.schemas.run.fold import Run
from linestop.schemas.run.state import Entry
from linestop.schemas.subject_filters import alert_filter, outcome_filter

T = TypeVar("T")
M = TypeVar("M", bound=HasPosition)


class RunFollower(RunReader):
    """A connection that can follow runs. ``Client`` can also send tasks and control messages."""

    def __init__(self, identity: Identity, *, name: str = "linestop client") -> None:
        super().__init__(identity, name=name)
        self._listeners: weakref.WeakSet[Listener[Any]] = weakref.WeakSet()

    async def stream(self, run: str, *, tenant: str = DEFAULT_TENANT) -> AsyncGenerator[Token]:
        """Yield the text of the run's model as it writes it, until the run is over; of every turn, without a gap.

        Text that was written before is yielded first, at once. A piece that was lost on the way, or was sent before
        this subscribed, is yielded with the rest of its attempt when that attempt ends. The run may begin later.

        Raises:
            Unreachable: the broker does not answer; text that was already yielded stays valid. Start again.
            PermissionDenied: this credential may not read runs.
        """
        state, tokens = Run(as_tenant(tenant), as_run(run)), TokenStream()
        log = self.bus.log()
        async with token_feed(self.bus.wire, state.tenant, state.run) as feed:
            while True:
                if feed.should_read_log(state.head_seq, now=tokens.has_early_pieces):
                    for message in await log.load(state.tenant, state.run, after_seq=state.head_seq):
                        entry = state.apply(message.subject, message.payload, message.seq)
                        for token in tokens.add_entry(entry, await _proposal_text(self, entry, tenant)):
                            yield token
                for token in (token for piece in feed.take() for token in tokens.add_piece(piece)):
                    yield token
                if state.sealed:
                    return
                await feed.wait(state.head_seq)

    @overload
    async def outcome(
        self, run: str, *, output: type[T], timeout_s: float | None = None, tenant: str = DEFAULT_TENANT
    ) -> Outcome[T]: ...

    @overload
    async def outcome(
        self, run: str, *, timeout_s: float | None = None, tenant: str = DEFAULT_TENANT
    ) -> Outcome[Any]: ...

    async def outcome(
        self, run: str, *, output: Any = None, timeout_s: float | None = None, tenant: str = DEFAULT_TENANT
    ) -> Outcome[Any]:
        """Wait until the run is over and return its outcome; at once if it is over already.

        ``output`` is the type of ``outcome.answer``: a dataclass, a TypedDict, a pydantic model, ``str`` …

        Raises:
            TimedOut: the run is not over after ``timeout_s``; it is still running.
            InputError: the answer is not an ``output``.
        """
        subject = subjects.run_outcome_filter(as_tenant(tenant), as_run(run))
        reader = Reader(self.bus.wire, stream_names.OUTCOMES)
        with anyio.move_on_after(timeout_s):
            async with watch_hints(self.bus.wire, subjects.live_subject(subject)) as new_messages:
                while not (messages := await reader.last_of_each(subject)):
                    await new_messages.wait()
                outcome = outcome_as(messages[-1].payload, output, position=messages[-1].seq)
                if isinstance(outcome.text, BlobRef):
                    outcome = with_text(outcome, await self.text(outcome.text, tenant=tenant))
                if output is not None:
                    # Read now: an answer of another type raises here, and not where it is used.
                    _ = outcome.answer
                return outcome
        raise TimedOut(f"Run '{run}' is still running after {timeout_s:g} s. Wait again, or stop it.")

    @overload
    def outcomes(
        self, *, output: type[T], agent: str = "", tenant: str = "", position: str = "", after: int | None = None
    ) -> Listener[Outcome[T]]: ...

    @overload
    def outcomes(
        self, *, agent: str = "", tenant: str = "", position: str = "", after: int | None = None
    ) -> Listener[Outcome[Any]]: ...

    def outcomes(
        self, *, output: Any = None, agent: str = "", tenant: str = "", position: str = "", after: int | None = None
    ) -> Listener[Outcome[Any]]:
        """The outcomes of all runs, or of an agent's or tenant's, in order: ``async for outcome in client.outcomes()``.

        With ``position``, a name, the broker stores the position of this listener: it begins with the oldest stored
        outcome, and later where it left off (see ``Listener``). With ``after`` it begins after that position, ``0``
        for the oldest. With neither it begins now. ``output`` is the type of ``outcome.answer``.

        Raises:
            InputError: agent, tenant or position is not a valid name, or both ``position`` and ``after`` are given.
        """
        options = ListenerOptions(
            stream=stream_names.OUTCOMES, subject=outcome_filter(tenant, agent), after=after, name=position
        )
        return self._listener(options, lambda message: outcome_as(message.payload, output, position=message.seq))

    def alerts(self, *, tenant: str = "", position: str = "", after: int | None = None) -> Listener[Alert]:
        """The alerts for people; arguments as ``outcomes``. Needs the credential ``operator`` or ``watcher``."""
        options = ListenerOptions(stream=stream_names.ALERTS, subject=alert_filter(tenant), after=after, name=position)
        return self._listener(options, read_alert)

    async def close(self) -> None:
        """Close the listeners that a ``break`` left open, and then the connection."""
        for listener in tuple(self._listeners):
            listener.warn_if_unsaved()
            # A listener that another task waits for ends with its connection.
            with contextlib.suppress(RuntimeError):
                await listener.aclose()
        await super().close()

    def _listener(self, options: ListenerOptions, read: Callable[[StreamMessage], M]) -> Listener[M]:
        listener = Listener(lambda: self.bus, options, read)
        self._listeners.add(listener)
        return listener


async def _proposal_text(reader: RunReader, entry: Entry, tenant: str) -> str:
    """The whole text of a proposal; empty for any other event."""
    event = entry.event
    return await reader.text(event.text, tenant=tenant) if isinstance(event, Proposed) else ""
