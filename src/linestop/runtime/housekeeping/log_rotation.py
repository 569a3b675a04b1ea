"""How sealed and archived runs leave RUNS before their 90 days, where the operator says so (`[keep] runs_days`).

RUNS takes no purge and no deletion, so that nobody can rewrite history; only age removes. So the
broker's administrator lets it keep no more than what lies behind a cut, for some milliseconds (longer only while the
server is busy), and then 90 days again. The cut is:

- not younger than the days that the operator wants kept;
- a day older than the first event of the oldest open run, by the log and by the archive, and than the first event
  that the archive does not have. Age removes from the front and stops at the first message that is young enough, so
  one of those is a wall that nothing behind it passes. The day is for a broker that dies in that time
  and starts again with the short age: until the day is over, nothing more leaves, and the start sets it right;
- nowhere while OUTCOMES is too full for the outcomes of what was sealed, since they would be made from the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

import anyio
import msgspec
import structlog

from linestop.archive.requests import Reach
from linestop.bus import jetstream_api, stream_names
from linestop.bus.connection import Connection
from linestop.bus.jetstream import JetStream
from linestop.bus.jetstream.reads import Reader, StreamMessage
from linestop.bus.migrate_streams import Administrator
from linestop.bus.stream_definitions import DUPLICATE_WINDOW_NS, RUNS_RETENTION_NS, SECOND_NS
from linestop.errors import LinestopError
from linestop.schemas import subjects
from linestop.schemas.defaults import SPACE_FOR_NEW_WORK

LOG = structlog.get_logger("linestop.rotation")
EVERY_S: Final = 3600.0
RETRY_S: Final = 60.0
MARGIN: Final = timedelta(days=1)
BY_HAND_WITHIN: Final = timedelta(hours=1)
"""How long the commands that are printed for an administrator may be used."""

LOOKS_MAX: Final = 100
LOOK_EVERY_S: Final = 0.01
"""How often, and after how long each time, it is looked whether the server has removed what is too old."""

AT_ONCE: Final = 32
RESTORE_TRIES: Final = 20
RESTORE_PAUSE_S: Final = 0.5


class Cut(msgspec.Struct, frozen=True, kw_only=True):
    """What may leave RUNS at this moment: what was stored before ``before``; None if nothing may.

    ``now`` is the broker's time. ``held_by`` says what must stay although it is old enough, or nothing.
    """

    now: datetime
    before: datetime | None
    held_by: str = ""

    @property
    def age(self) -> timedelta:
        """How old is what must stay; nothing that old is left."""
        return self.now - self.before if self.before is not None else timedelta(0)

    def by_hand(self) -> str:
        """What the administrator of an outside broker has to do within the hour."""
        keep_s = int((self.age + BY_HAND_WITHIN).total_seconds())
        edit = f"nats stream edit {stream_names.RUNS} -f --max-age"
        return f"{edit}={keep_s}s && {edit}={RUNS_RETENTION_NS // SECOND_NS}s"


class Archived(Protocol):
    """What the archive says of itself."""

    async def reach(self) -> Reach:
        """How far it is."""
        ...


async def find_cut(stream: JetStream, reach: Reach, days: float) -> Cut:
    """Find what may leave RUNS if so many days are to be kept."""
    reader = Reader(stream.wire, stream_names.RUNS)
    info = await reader.info()
    assert info.ts is not None, "the server tells its time with every stream"
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
    for found, why in await _walls(stream, reader, reach):
        if _at(found) - MARGIN < cut:
            cut, held_by = _at(found) - MARGIN, why
    return Cut(now=now, before=cut if _at(first) < cut else None, held_by=held_by)


async def _walls(stream: JetStream, reader: Reader, reach: Reach) -> list[tuple[StreamMessage, str]]:
    """Messages that must stay, each with the reason."""
    walls: list[tuple[StreamMessage, str]] = []
    if (next_one := await reader.next("runs.>", seq=reach.watermark + 1)) is not None:
        walls.append((next_one, f"the archive does not have event {next_one.seq} of the log yet"))
    if reach.oldest_open_seq and (found := await reader.next("runs.>", seq=reach.oldest_open_seq)) is not None:
        walls.append((found, f"the archive knows {_named(found)} as open"))
    open_runs = await stream.log().open_runs()
    for start in range(0, len(open_runs), AT_ONCE):
        part = open_runs[start : start + AT_ONCE]
        firsts = await asyncio.gather(*(reader.next(subjects.run_filter(tenant, run), seq=1) for tenant, run in part))
        walls += [(found, f"{_named(found)} is open") for found in firsts if found is not None]
    return walls


def _named(found: StreamMessage) -> str:
    tokens = found.subject.split(".")
    return f"run '{tokens[2]}' of tenant '{tokens[1]}', begun {_at(found):%Y-%m-%d %H:%M} UTC,"


def _at(found: StreamMessage) -> datetime:
    assert found.at is not None, "the leader tells when a message was stored"
    return found.at


async def rotate(administrator: Administrator, cut: Cut) -> int:
    """Let leave what lies before the cut; return how many events that were.

    Whatever happens meanwhile, RUNS keeps 90 days again afterwards, as soon as the broker can be reached.
    """
    if cut.before is None:
        return 0
    first = last = 0
    try:
        async with administrator() as admin:
            info = await _info(admin)
            first = last = _first_seq(info)
            try:
                # The server removes what is too old at a moment of its own, a little after its answer.
                for _ in range(LOOKS_MAX):
                    await _update(admin, {**info["config"], **_shorter(info, cut.before)})
                    info = await _info(admin)
                    if not _holds_older(info, cut.before):
                        break
                    await anyio.sleep(LOOK_EVERY_S)
                last = _first_seq(info)
            finally:
                with anyio.CancelScope(shield=True):
                    await _update(admin, {**info["config"], **_KEPT})
    except BaseException:
        with anyio.CancelScope(shield=True):
            await restore(administrator)
        raise
    return last - first


def _first_seq(info: dict[str, Any]) -> int:
    """Where the log begins. Only age removes from it, so from one beginning to the next is what has left."""
    return int(info["state"]["first_seq"])


def _holds_older(info: dict[str, Any], than: datetime) -> bool:
    state = info["state"]
    return bool(state["messages"]) and msgspec.convert(state["first_ts"], datetime) < than


def _shorter(info: dict[str, Any], before: datetime) -> dict[str, int]:
    """Ages that end at the cut, by the broker's time of this moment: the cut is a point in time, an age moves on."""
    age_ns = int((msgspec.convert(info["ts"], datetime) - before).total_seconds() * SECOND_NS)
    return {"max_age": age_ns, "duplicate_window": min(age_ns, DUPLICATE_WINDOW_NS)}


_KEPT: Final = {"max_age": RUNS_RETENTION_NS, "duplicate_window": DUPLICATE_WINDOW_NS}


async def restore(administrator: Administrator) -> None:
    """Let RUNS keep 90 days again, with some patience for a broker that is being started.

    Raises:
        LinestopError: the broker stayed away; the next start sets it right.
    """
    for tries in range(1, RESTORE_TRIES + 1):
        try:
            async with administrator() as admin:
                config = (await _info(admin))["config"]
                if any(config.get(field) != value for field, value in _KEPT.items()):
                    await _update(admin, {**config, **_KEPT})
                return
        except LinestopError:
            if tries == RESTORE_TRIES:
                raise
            await anyio.sleep(RESTORE_PAUSE_S)


async def _info(admin: Connection) -> dict[str, Any]:
    return await admin.api_request(jetstream_api.server_subject(jetstream_api.stream_info(stream_names.RUNS)))


async def _update(admin: Connection, config: dict[str, Any]) -> None:
    await admin.api_request(jetstream_api.server_subject(jetstream_api.stream_update(stream_names.RUNS)), config)


class Rotation:
    """Rotates the log of a broker of one's own, now and every hour; ``say`` is told what has left, or what holds it."""

    def __init__(
        self, administrator: Administrator, archive: Archived, *, days: int, say: Callable[[str], None]
    ) -> None:
        self._administrator = administrator
        self._archive = archive
        self._days = days
        self._say = say
        self._told = ""

    async def run_for_ever(self, stream: JetStream) -> None:
        """Do it for ever; ends by cancellation. What fails is tried again in a minute."""
        while True:
            pause_s = RETRY_S
            try:
                await self.turn(stream)
                pause_s = EVERY_S
            except LinestopError as error:
                LOG.warning("log_not_rotated", error=str(error))
            except Exception:
                LOG.exception("log_not_rotated")
            await anyio.sleep(pause_s)

    async def turn(self, stream: JetStream) -> int:
        """Do it once; return how many events have left."""
        cut = await find_cut(stream, await self._archive.reach(), self._days)
        gone = await rotate(self._administrator, cut)
        if gone:
            self._say(f"{gone} events of sealed runs have left {stream_names.RUNS}: the archive has them.")
        if cut.held_by != self._told:
            self._told = cut.held_by
            if cut.held_by:
                self._say(f"{stream_names.RUNS} keeps more than {self._days} days: {cut.held_by}.")
        return gone
