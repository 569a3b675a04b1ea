"""Listening to outcomes and alerts: everything that a stream stores, in order, from any point and across restarts.

What is heard is a hint only; what is given comes from the store, so nothing is lost to a slow listener, a lost
connection or a restart of the broker. A listener with a name keeps its position on the broker (bucket ``positions``).
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

import msgspec

from linestop.bus import stream_names
from linestop.bus.interfaces import Bucket
from linestop.bus.jetstream import JetStream
from linestop.bus.jetstream.reads import Reader, StreamMessage
from linestop.bus.jetstream.wire import NoResponders
from linestop.client.waiting import watch_hints
from linestop.errors import Conflict, Defect, InputError, Unreachable
from linestop.schemas import subjects
from linestop.schemas.subjects import check_name

LOG = logging.getLogger("linestop.client")


class HasPosition(Protocol):
    """What a listener gives."""

    @property
    def position(self) -> int:
        """Where it stands in its stream."""
        ...


M = TypeVar("M", bound=HasPosition)


class Alert(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What calls a person. ``event`` is the event of the run that it is about, number ``n``, as it stands in the log.

    ``kind``: ``approval-asked``, ``stopped``, ``threshold``, ``wider-contract``, ``over-reservation`` (``why``);
    ``no-worker`` (``role``), ``lost`` (``why``), ``clock-off`` (``worker``, ``role``, ``why``; of no run).
    """

    kind: str
    tenant: str
    run: str = ""
    agent: str = ""
    n: int = 0
    event: dict[str, Any] = {}
    role: str = ""
    why: str = ""
    worker: str = ""
    at: str = ""
    """When it happened, RFC 3339."""

    position: int = 0


def read_alert(message: StreamMessage) -> Alert:
    """Read a stored alert."""
    fields = msgspec.json.decode(message.payload, type=dict[str, Any])
    kind, at = message.subject.rpartition(".")[2], message.headers.get("ce-time", "")
    return msgspec.convert({**fields, "kind": kind, "at": at, "position": message.seq}, Alert)


class ListenerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What to listen to. ``after`` is a position, ``name`` the listener's whose position is kept; neither: from now."""

    stream: str
    subject: str
    after: int | None = None
    name: str = ""


class Listener(Generic[M]):
    """An asynchronous iterator over what a stream stores; it ends only with an error, or when it is left.

    With a name, a message counts as handled when the next one is asked for, and the last one also when the block of an
    ``async with`` is left without an error, or when ``save`` says so. After a crash or an error the last one comes
    again, and no other. A loop without ``async with`` cannot tell ``break`` from an error: the last one comes again,
    and a warning says so. Of two listeners with one name, one gets ``Conflict``.
    """

    def __init__(
        self, bus: Callable[[], JetStream], options: ListenerOptions, read: Callable[[StreamMessage], M]
    ) -> None:
        # One that cannot be made is deleted, too.
        self._closed = False
        self._position: _Position | None = None
        if options.after is not None and options.name:
            raise InputError("Give either `after` or `position`: a listener with a name knows where it was.")
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
        """Count the message before as handled, and wait for the next.

        Raises:
            Conflict: another listener of this name moved the position.
            Unreachable: the broker does not answer. Begin again: nothing is lost.
            PermissionDenied: this credential may not read the stream.
        """
        await self.save()
        while True:
            try:
                message = await anext(self._source)
            except StopAsyncIteration:
                if self._closed:
                    raise
                # An error, or whoever waited and gave up, ended it: it goes on where it was.
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
                    f"`after={message.seq}` goes on behind it."
                ) from None

    async def save(self) -> None:
        """Count all that was given as handled. Without a name it does nothing."""
        if self._position is not None:
            await self._position.save(self._last_given_seq)

    def __del__(self) -> None:
        self.warn_if_unsaved()

    def warn_if_unsaved(self) -> None:
        """Say that the last message comes again, where nothing told whether it was handled."""
        if not self._closed and self._position is not None and self._position.seq != self._last_given_seq:
            LOG.warning(
                "Position '%s': nothing told whether message %d was handled, since its loop was left: it comes again. "
                "Use `async with` around the loop, or `await listener.save()` before you leave it.",
                self._options.name, self._last_given_seq,
            )  # fmt: skip

    async def aclose(self) -> None:
        """Stop listening; the last message that was given does not count as handled."""
        self._closed = True
        await self._source.aclose()

    async def __aenter__(self) -> Self:
        # From here on everything is heard: the first thing that the source gives is that it listens.
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
        """None once it is known where to begin, then every message."""
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
        """The position to begin behind."""
        options = self._options
        if options.name:
            key = f"{bus.wire.connection.credential.user}.{options.stream.lower()}.{options.name}"
            self._position = await _Position.read(bus.bucket(stream_names.POSITIONS_BUCKET), key)
            after = self._last_given_seq = self._position.seq
        elif options.after is not None:
            after = options.after
        else:
            after = await _last_seq(reader)
        if after and (options.name or options.after is not None) and after > (last := await _last_seq(reader)):
            raise InputError(
                f"Position {after} is behind the last message of {options.stream}, {last}: it belongs to another "
                "broker, or to one that was set up again. Begin with `after=0`, or under another name."
            )
        return after


async def _last_seq(reader: Reader) -> int:
    state = (await reader.info()).state
    return state.last_seq if state else 0


class _Seq(msgspec.Struct, frozen=True):
    seq: int


class _Position:
    """How far the listener of one name has come, kept in a key of its own; whoever moved it last must be us."""

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
                "The broker keeps no positions of listeners: an older linestop set it up. Start `linestop dev` again, "
                "or run `linestop bus init`."
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
                f"Another listener moved the position '{name}' meanwhile: let one at a time use a name, or give each "
                "its own."
            ) from None
        self.seq = seq
