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
from linestop.bus.interfaces import Shared
from linestop.bus.jetstream import JetStream
from linestop.bus.jetstream.reads import Found, Reader
from linestop.bus.jetstream.wire import NoResponders
from linestop.client.waiting import hints
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


def alert_of(found: Found) -> Alert:
    """Read a stored alert."""
    fields = msgspec.json.decode(found.payload, type=dict[str, Any])
    kind, at = found.subject.rpartition(".")[2], found.headers.get("ce-time", "")
    return msgspec.convert({**fields, "kind": kind, "at": at, "position": found.seq}, Alert)


class Listening(msgspec.Struct, frozen=True, kw_only=True):
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

    def __init__(self, bus: Callable[[], JetStream], wanted: Listening, read: Callable[[Found], M]) -> None:
        # One that cannot be made is deleted, too.
        self._closed = False
        self._position: _Position | None = None
        if wanted.after is not None and wanted.name:
            raise InputError("Give either `after` or `position`: a listener with a name knows where it was.")
        if wanted.name:
            check_name("position", wanted.name)
        self._bus = bus
        self._wanted = wanted
        self._read = read
        self._source = self._messages()
        self._after: int | None = None
        self._given = 0

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
                found = await anext(self._source)
            except StopAsyncIteration:
                if self._closed:
                    raise
                # An error, or whoever waited and gave up, ended it: it goes on where it was.
                self._source = self._messages()
                continue
            if found is None:
                continue
            self._given = found.seq
            try:
                return self._read(found)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise Defect(
                    f"Message {found.seq} of {self._wanted.stream} cannot be read ({error}); report it. "
                    f"`after={found.seq}` goes on behind it."
                ) from None

    async def save(self) -> None:
        """Count all that was given as handled. Without a name it does nothing."""
        if self._position is not None:
            await self._position.save(self._given)

    def __del__(self) -> None:
        self.warn_if_unsaved()

    def warn_if_unsaved(self) -> None:
        """Say that the last message comes again, where nothing told whether it was handled."""
        if not self._closed and self._position is not None and self._position.seq != self._given:
            LOG.warning(
                "Position '%s': nothing told whether message %d was handled, since its loop was left: it comes again. "
                "Use `async with` around the loop, or `await listener.save()` before you leave it.",
                self._wanted.name, self._given,
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

    async def _messages(self) -> AsyncGenerator[Found | None]:
        """None once it is known where to begin, then every message."""
        bus, wanted = self._bus(), self._wanted
        reader = Reader(bus.wire, wanted.stream)
        async with hints(bus.wire, subjects.live(wanted.subject)) as news:
            after = self._after = await self._begin(bus, reader) if self._after is None else self._after
            yield None
            while True:
                page = await reader.page(wanted.subject, after_seq=after)
                for found in page:
                    after = self._after = found.seq
                    yield found
                if not page:
                    await news.wait(after)

    async def _begin(self, bus: JetStream, reader: Reader) -> int:
        """The position to begin behind."""
        wanted = self._wanted
        if wanted.name:
            key = f"{bus.wire.connection.credential.user}.{wanted.stream.lower()}.{wanted.name}"
            self._position = await _Position.read(bus.shared(stream_names.POSITIONS_BUCKET), key)
            after = self._given = self._position.seq
        elif wanted.after is not None:
            after = wanted.after
        else:
            after = await _last(reader)
        if after and (wanted.name or wanted.after is not None) and after > (last := await _last(reader)):
            raise InputError(
                f"Position {after} is behind the last message of {wanted.stream}, {last}: it belongs to another "
                "broker, or to one that was set up again. Begin with `after=0`, or under another name."
            )
        return after


async def _last(reader: Reader) -> int:
    state = (await reader.info()).state
    return state.last_seq if state else 0


class _Seq(msgspec.Struct, frozen=True):
    seq: int


class _Position:
    """How far the listener of one name has come, kept in a key of its own; whoever moved it last must be us."""

    def __init__(self, bucket: Shared, key: str, seq: int, revision: int) -> None:
        self._bucket = bucket
        self._key = key
        self.seq = seq
        self._revision = revision

    @classmethod
    async def read(cls, bucket: Shared, key: str) -> Self:
        try:
            found = await bucket.get(key)
        except NoResponders:
            raise Unreachable(
                "The broker keeps no positions of listeners: an older linestop set it up. Start `linestop dev` again, "
                "or run `linestop bus init`."
            ) from None
        if found is None:
            return cls(bucket, key, 0, 0)
        return cls(bucket, key, msgspec.json.decode(found.value, type=_Seq).seq, found.revision)

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
