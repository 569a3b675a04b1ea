"""Removes sealed and archived runs from RUNS before their 90 days, if the operator sets `[keep] runs_days`.

RUNS allows no purge and no deletion, so that history cannot be rewritten; only age removes. So the broker's
administrator shortens the age of RUNS to a cut, for some milliseconds (longer only while the server is busy), and
then sets it to 90 days again. The cut is:

- not younger than the days that the operator wants to keep;
- a day older than the first event of the oldest open run, by the log and by the archive, and than the first event
  that the archive does not have. Age removes from the front and stops at the first message that is young enough, so
  such an event protects everything after it. The day is for a broker that dies while the short age is set and starts
  again with it: within that day no further event is removed, and the start sets the age right;
- absent while OUTCOMES is too full for the outcomes of sealed runs, since these would be made from the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Final, Protocol

import anyio
import msgspec
import structlog

from linestop.archive.requests import Reach
from linestop.bus import jetstream_api
from linestop.bus.connection import Connection
from linestop.bus.jetstream import JetStream
from linestop.bus.jetstream.reads import Reader, StreamMessage
from linestop.bus.streams import stream_names
from linestop.bus.streams.migrate_streams import Administrator
from linestop.bus.streams.stream_definitions import DUPLICATE_WINDOW_NS, RUNS_RETENTION_NS, SECOND_NS
from linestop.errors import LinestopError
from linestop.schemas import subjects
from linestop.schemas.broker_defaults import SPACE_FOR_NEW_WORK
from linestop.schemas.defaults import ROTATE_EVERY_S
from linestop.schemas.json_values import JsonObject

LOG = structlog.get_logger("linestop.rotation")
RETRY_S: Final = 60.0
MARGIN: Final = timedelta(days=1)
COMMANDS_VALID_FOR: Final = timedelta(hours=1)
"""How long the commands that are printed for an administrator stay valid."""

POLLS_MAX: Final = 100
POLL_EVERY_S: Final = 0.01
"""How often, and at what interval, the stream is read to see whether the server has removed what is too old."""

READS_AT_ONCE_MAX: Final = 32
RESTORE_TRIES: Final = 20
RESTORE_PAUSE_S: Final = 0.5


class Cut(msgspec.Struct, frozen=True, kw_only=True):
    """The part of RUNS that may be removed now: events stored before ``before``; None if none may.

    ``now`` is the broker's time. ``held_by`` names what must stay although it is old enough; empty if nothing must.
    """

    now: datetime
    before: datetime | None
    held_by: str = ""

    @property
    def age(self) -> timedelta:
        """The age of the cut: older events are removed."""
        return self.now - self.before if self.before is not None else timedelta(0)

    def manual_commands(self) -> str:
        """Return the commands that the administrator of an outside broker has to run within the hour."""
        keep_s = int((self.age + COMMANDS_VALID_FOR).total_seconds())
        edit = f"nats stream edit {stream_names.RUNS} -f --max-age"
        return f"{edit}={keep_s}s && {edit}={RUNS_RETENTION_NS // SECOND_NS}s"


class ReachSource(Protocol):
    """Returns how far the archive has read the log."""

    async def reach(self) -> Reach:
        """Return the archive's progress."""
        ...


async def find_cut(stream: JetStream, reach: Reach, days: float) -> Cut:
    """Find the part of RUNS that may be removed if ``days`` days are to be kept."""
    reader = Reader(stream.wire, stream_names.RUNS)
    info = await reader.info()
    assert info.ts is not None, "the server reports its time with every stream"
    now, first = info.ts, await reader.next("runs.>", seq=1)
    cut = now - timedelta(days=days)
    if first is None or _at(first) >= cut:
        return Cut(now=now, before=None)
    fills = {fill.stream: fill.used for fill in await stream.log().fills()}
    if fills.get(stream_names.OUTCOMES, 0.0) >= SPACE_FOR_NEW_WORK:
        return Cut(
            now=now, before=None, held_by=f"the stream {stream_names.OUTCOMES} is too full for outcomes of the log"
        )
    held_by = ""
    for found, why in await _events_to_keep(stream, reader, reach):
        if _at(found) - MARGIN < cut:
            cut, held_by = _at(found) - MARGIN, why
    return Cut(now=now, before=cut if _at(first) < cut else None, held_by=held_by)


async def _events_to_keep(stream: JetStream, reader: Reader, reach: Reach) -> list[tuple[StreamMessage, str]]:
    """Return the messages that must stay, each with the reason."""
    to_keep: list[tuple[StreamMessage, str]] = []
    if (next_one := await reader.next("runs.>", seq=reach.watermark + 1)) is not None:
        to_keep.append((next_one, f"the archive does not have event {next_one.seq} of the log yet"))
    if reach.oldest_open_seq and (found := await reader.next("runs.>", seq=reach.oldest_open_seq)) is not None:
        to_keep.append((found, f"the archive knows {_named(found)} as open"))
    open_runs = await stream.log().open_runs()
    for start in range(0, len(open_runs), READS_AT_ONCE_MAX):
        part = open_runs[start : start + READS_AT_ONCE_MAX]
        firsts = await asyncio.gather(*(reader.next(subjects.run_filter(tenant, run), seq=1) for tenant, run in part))
        to_keep += [(found, f"{_named(found)} is open") for found in firsts if found is not None]
    return to_keep


def _named(found: StreamMessage) -> str:
    tokens = found.subject.split(".")
    return f"run '{tokens[2]}' of tenant '{tokens[1]}', begun {_at(found):%Y-%m-%d %H:%M} UTC,"


def _at(found: StreamMessage) -> datetime:
    assert found.at is not None, "the leader reports when a message was stored"
    return found.at


async def rotate(administrator: Administrator, cut: Cut) -> int:
    """Remove the events before the cut; return their number.

    On any failure RUNS keeps 90 days again afterwards, as soon as the broker can be reached.
    """
    if cut.before is None:
        return 0
    first = last = 0
    try:
        async with administrator() as admin:
            info = await _info(admin)
            first = last = _first_seq(info)
            try:
                # The server removes what is too old at a moment of its own, a little after its reply.
                for _ in range(POLLS_MAX):
                    await _update(admin, {**info["config"], **_shorter(info, cut.before)})
                    info = await _info(admin)
                    if not _has_older(info, cut.before):
                        break
                    await anyio.sleep(POLL_EVERY_S)
                last = _first_seq(info)
            finally:
                with anyio.CancelScope(shield=True):
                    await _update(admin, {**info["config"], **_RETENTION})
    except BaseException:
        with anyio.CancelScope(shield=True):
            await restore(administrator)
        raise
    return last - first


def _first_seq(info: JsonObject) -> int:
    """Return where the log begins. Only age removes from it, so two values give the number of removed events."""
    return int(info["state"]["first_seq"])


def _has_older(info: JsonObject, than: datetime) -> bool:
    state = info["state"]
    return bool(state["messages"]) and msgspec.convert(state["first_ts"], datetime) < than


def _shorter(info: JsonObject, before: datetime) -> dict[str, int]:
    """Return the ages that end at the cut by the broker's present time: the cut is fixed, an age moves on."""
    age_ns = int((msgspec.convert(info["ts"], datetime) - before).total_seconds() * SECOND_NS)
    return {"max_age": age_ns, "duplicate_window": min(age_ns, DUPLICATE_WINDOW_NS)}


_RETENTION: Final = {"max_age": RUNS_RETENTION_NS, "duplicate_window": DUPLICATE_WINDOW_NS}


async def restore(administrator: Administrator) -> None:
    """Let RUNS keep 90 days again, with retries for a broker that is being started.

    Raises:
        LinestopError: the broker could not be reached; the next start sets the age right.
    """
    for tries in range(1, RESTORE_TRIES + 1):
        try:
            async with administrator() as admin:
                config = (await _info(admin))["config"]
                if any(config.get(field) != value for field, value in _RETENTION.items()):
                    await _update(admin, {**config, **_RETENTION})
                return
        except LinestopError:
            if tries == RESTORE_TRIES:
                raise
            await anyio.sleep(RESTORE_PAUSE_S)


async def _info(admin: Connection) -> JsonObject:
    return await admin.api_request(jetstream_api.server_subject(jetstream_api.stream_info(stream_names.RUNS)))


async def _update(admin: Connection, config: JsonObject) -> None:
    await admin.api_request(jetstream_api.server_subject(jetstream_api.stream_update(stream_names.RUNS)), config)


class Rotation:
    """Rotates the log of linestop's own broker, at once and every hour; ``report`` prints what was removed or held."""

    def __init__(
        self, administrator: Administrator, archive: ReachSource, *, days: int, report: Callable[[str], None]
    ) -> None:
        self._administrator = administrator
        self._archive = archive
        self._days = days
        self._report = report
        self._reported = ""

    async def run_for_ever(self, stream: JetStream) -> None:
        """Rotate until cancelled. A rotation that fails is tried again in a minute."""
        while True:
            pause_s = RETRY_S
            try:
                await self.rotate_once(stream)
                pause_s = ROTATE_EVERY_S
            except LinestopError as error:
                LOG.warning("log_not_rotated", error=str(error))
            except Exception:
                LOG.exception("log_not_rotated")
            await anyio.sleep(pause_s)

    async def rotate_once(self, stream: JetStream) -> int:
        """Rotate once; return how many events were removed."""
        cut = await find_cut(stream, await self._archive.reach(), self._days)
        removed_n = await rotate(self._administrator, cut)
        if removed_n:
            self._report(
                f"{removed_n} events of sealed runs were removed from {stream_names.RUNS}: the archive has them."
            )
        if cut.held_by != self._reported:
            self._reported = cut.held_by
            if cut.held_by:
                self._report(f"{stream_names.RUNS} keeps more than {self._days} days: {cut.held_by}.")
        return removed_n
