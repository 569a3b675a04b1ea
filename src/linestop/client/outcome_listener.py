"""Listening to outcomes and alerts: everything that a stream stores, in order, from any point and across restarts.

A message over core NATS is only a hint. Every message that a listener returns comes from the stream, so nothing is lost
to a slow listener, a lost connection or a restart of the broker. A listener with a name stores its position on the
broker (bucket ``positions``).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

import msgspec

from linestop.bus.interfaces import Bucket
from linestop.bus.jetstream import JetStream
from linestop.bus.jetstream.reads import Reader, StreamMessage
from linestop.bus.streams import stream_names
from linestop.bus.wire import NoResponders
from linestop.client.waiting import watch_hints
from linestop.errors import Conflict, Defect, InputError, Unreachable
from linestop.schemas import subjects
from linestop.schemas.json_values import JsonObject
from linestop.schemas.subjects import check_name

LOG = logging.getLogger("linestop.client")


class HasPosition(Protocol):
    """A message that a listener returns."""

    @property
    def position(self) -> int:
        """The position of the message in its stream."""
        ...


M = TypeVar("M", bound=HasPosition)


class Alert(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An alert for a person. ``event`` is the run's event that caused it, number ``n``, as stored in the log.

    ``kind``: ``approval-asked``, ``stopped``, ``threshold``, ``wider-contract``, ``over-reservation`` (``why``);
    ``no-worker`` (``role``), ``lost`` (``why``), ``clock-off`` (``worker``, ``role``, ``why``; belongs to no run).
    """

    kind: str
    tenant: str
    run: str = ""
    agent: str = ""
    n: int = 0
    event: JsonObject = {}
    role: str = ""
    why: str = ""
    worker: str = ""
    at: str = ""
    """When it happened, RFC 3339."""

    position: int = 0


def read_alert(message: StreamMessage) -> Alert:
    """Read a stored alert."""
    fields = msgspec.json.decode(message.payload, type=JsonObject)
    kind, at = message.subject.rpartition(".")[2], message.headers.get("ce-time", "")
    return msgspec.convert({**fields, "kind": kind, "at": at, "position": message.seq}, Alert)


class ListenerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What to listen to. It starts at position ``after``, the stored position of ``name``, or now if neither is set."""

    stream: str
    subject: str
    after: int | None = None
    name: str = ""


class Listener(Generic[M]):
    """An asynchronous iterator over the messages of a stream; it ends only with an error, or when it is closed.

    With a name, a message counts as handled when the next one is requested; the last one also when an ``async with``
    block ends without an error, or after ``save``. After a crash or an error only the last message is returned again.
    A loop without ``async with`` cannot tell ``break`` from an error: the last message is returned again, and a warning
    is logged. Of two listeners with one name, one gets ``Conflict``.
    """

    def __init__(
        self, bus: Callable[[], JetStream], options: ListenerOptions, read: Callable[[StreamMessage], M]
    ) -> None:
        # Set first: __del__ also runs for a listener whose __init__ failed.
        self._closed = False
        self._position: _Position | None = None
        if options.after is not None and options.name:
            raise InputError("Give either `after` or `position`: a listener with a name stores its own position.")
        if options.name:
            check_name("position", options.name)
        self._bus = bus
        self._options = options
        self._read = read
        self._source = self._messages()
        self._after: int | None = None
        self._last_given_seq = 0

    def __aiter__(self) -> AsyncIterator[M]:
        return self

    async def __anext__(self) -> M:
        """Count the previous message as handled and wait for the next.

        Raises:
            Conflict: another listener of this name moved the position.
            Unreachable: the broker does not answer. Start again: nothing is lost.
            PermissionDenied: this credential may not read the stream.
        """
        await self.save()
        while True:
            try:
                message = await anext(self._source)
            except StopAsyncIteration:
                if self._closed:
                    raise
                # An error or a cancelled caller ended the source: a new one continues at the same position.
                self._source = self._messages()
                continue
            if message is None:
                continue
            self._last_given_seq = message.seq
            try:
                return self._read(message)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise Defect(
                    f"Message {message.seq} of {self._options.stream} cannot be read ({error}); report it. "
                    f"`after={message.seq}` continues with the message after it."
                ) from None

    async def save(self) -> None:
        """Count every message that was returned as handled. A listener without a name stores nothing."""
        if self._position is not None:
            await self._position.save(self._last_given_seq)

    def __del__(self) -> None:
        self.warn_if_unsaved()

    def warn_if_unsaved(self) -> None:
        """Warn that the last message will be returned again if the listener cannot know whether it was handled."""
        if not self._closed and self._position is not None and self._position.seq != self._last_given_seq:
            LOG.warning(
                "Position '%s': the loop ended without saving whether message %d was handled, so it will be returned "
                "again. Use `async with` around the loop, or `await listener.save()` before leaving it.",
                self._options.name,
                self._last_given_seq,
            )

    async def aclose(self) -> None:
        """Stop listening; the message that was returned last does not count as handled."""
        self._closed = True
        await self._source.aclose()

    async def __aenter__(self) -> Self:
        # The source first yields None when it is subscribed; from then on it misses nothing.
        await anext(self._source)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await self.save()
        finally:
            await self.aclose()

    async def _messages(self) -> AsyncGenerator[StreamMessage | None]:
        """Yield None once the first position is known, then every message."""
        bus, options = self._bus(), self._options
        reader = Reader(bus.wire, options.stream)
        async with watch_hints(bus.wire, subjects.live_subject(options.subject)) as new_messages:
            after = self._after = await self._begin(bus, reader) if self._after is None else self._after
            yield None
            while True:
                page = await reader.page(options.subject, after_seq=after)
                for message in page:
                    after = self._after = message.seq
                    yield message
                if not page:
                    await new_messages.wait(after)

    async def _begin(self, bus: JetStream, reader: Reader) -> int:
        """The position after which to begin."""
        options = self._options
        if options.name:
            key = f"{bus.connection.credential.user}.{options.stream.lower()}.{options.name}"
            self._position = await _Position.read(bus.bucket(stream_names.POSITIONS_BUCKET), key)
            after = self._last_given_seq = self._position.seq
        elif options.after is not None:
            after = options.after
        else:
            after = await _last_seq(reader)
        if after and (options.name or options.after is not None) and after > (last := await _last_seq(reader)):
            raise InputError(
                f"Position {after} is higher than the last message of {options.stream}, {last}: it belongs to another "
                "broker, or to one that was set up again. Start with `after=0`, or under another name."
            )
        return after


async def _last_seq(reader: Reader) -> int:
    state = (await reader.info()).state
    return state.last_seq if state else 0


class _Seq(msgspec.Struct, frozen=True):
    seq: int


class _Position:
    """The stored position of one named listener, in its own key; only the listener that wrote it last may move it."""

    def __init__(self, bucket: Bucket, key: str, seq: int, revision: int) -> None:
        self._bucket = bucket
        self._key = key
        self.seq = seq
        self._revision = revision

    @classmethod
    async def read(cls, bucket: Bucket, key: str) -> Self:
        try:
            stored = await bucket.get(key)
        except NoResponders:
            raise Unreachable(
                "The broker has no bucket for the positions of listeners, because an older linestop set it up. Start "
                "`linestop dev` again, or run `linestop bus init`."
            ) from None
        if stored is None:
            return cls(bucket, key, 0, 0)
        return cls(bucket, key, msgspec.json.decode(stored.value, type=_Seq).seq, stored.revision)

    async def save(self, seq: int) -> None:
        if seq == self.seq:
            return
        value = msgspec.json.encode(_Seq(seq))
        try:
            if self._revision:
                self._revision = await self._bucket.update(self._key, value, revision=self._revision)
            else:
                self._revision = await self._bucket.create(self._key, value)
        except Conflict:
            name = self._key.rpartition(".")[2]
            raise Conflict(
                f"Another listener moved the position '{name}' in between: use a name for one listener at a time, or "
                "give each listener its own."
            ) from None
        self.seq = seq
