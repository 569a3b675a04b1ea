"""How other processes of this machine reach an open archive: a Unix socket beside it, for its owner only.

DuckDB lets nobody else open the file, so the recorder itself says how far it is, where its oldest open run begins and
what it has of runs that left the log, and makes snapshots. One request and one answer a connection, JSON in one line
each.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeVar

import anyio
import anyio.abc
import msgspec

from linestop.archive.duckdb_file import ArchiveStatus
from linestop.archive.requests import Reach, Wanted
from linestop.errors import LinestopError, RetryableError

if TYPE_CHECKING:
    from linestop.archive.writer import Archive

T = TypeVar("T")

LINE_BYTES_MAX: Final = 64 * 1024
ANSWER_WITHIN_S: Final = 300.0


class DoorRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is wanted; ``path`` is where a snapshot goes, or what is told of runs."""

    want: Literal["status", "reach", "snapshot", "runs"]
    path: str = ""
    runs: Wanted | None = None


class DoorAnswer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The archive's status after the request, or why it was not done; ``reach`` if that was wanted."""

    status: ArchiveStatus | None = None
    reach: Reach | None = None
    error: str = ""


class Door:
    """Answers requests about one open archive."""

    def __init__(self, path: Path, archive: Archive) -> None:
        self._path = path
        self._archive = archive

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Listen while the block runs."""
        with _short(self._path) as socket:
            # Whoever has the archive open is the only one who may listen, so what lies there is left over.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(socket)  # noqa: PTH108 - see _short
            listener = await anyio.create_unix_listener(socket, mode=0o600)
            async with listener, anyio.create_task_group() as tasks:
                tasks.start_soon(listener.serve, self._answer)
                try:
                    yield
                finally:
                    tasks.cancel_scope.cancel()
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(socket)  # noqa: PTH108 - see _short

    async def _answer(self, stream: anyio.abc.SocketStream) -> None:
        async with stream:
            try:
                answer = await self._done(msgspec.json.decode(await _line(stream), type=DoorRequest))
            except (LinestopError, msgspec.DecodeError, OSError) as error:
                answer = DoorAnswer(error=str(error))
            except Exception as error:  # noqa: BLE001 - the database's own, told to whoever asked
                answer = DoorAnswer(error=f"{type(error).__name__}: {error}")
            with contextlib.suppress(anyio.BrokenResourceError):
                await stream.send(msgspec.json.encode(answer) + b"\n")

    async def _done(self, request: DoorRequest) -> DoorAnswer:
        if request.want == "reach":
            return DoorAnswer(reach=await self._archive.reach())
        if request.want == "snapshot":
            await self._archive.snapshot(Path(request.path))
        elif request.runs is not None:
            await self._archive.export(request.runs, Path(request.path))
        return DoorAnswer(status=await self._archive.status())


async def ask(path: Path, request: DoorRequest) -> ArchiveStatus | None:
    """Ask the recorder that has the archive ``path`` open; None if no recorder has.

    Raises:
        RetryableError: it did not do what was asked, and says why.
    """
    answer = await _answered(path, request)
    return None if answer is None else _given(path, answer, answer.status)


async def ask_reach(path: Path) -> Reach | None:
    """Ask the same recorder how far it is and where its oldest open run begins; None if no recorder has it open.

    Raises:
        RetryableError: it did not tell, and says why.
    """
    answer = await _answered(path, DoorRequest(want="reach"))
    return None if answer is None else _given(path, answer, answer.reach)


def _given(path: Path, answer: DoorAnswer, found: T | None) -> T:
    if answer.error or found is None:
        why = answer.error.removesuffix(".") or "it said nothing"
        raise RetryableError(f"The recorder that keeps {path} refused: {why}.")
    return found


async def _answered(path: Path, request: DoorRequest) -> DoorAnswer | None:
    with _short(path) as socket:
        try:
            stream = await anyio.connect_unix(socket)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            return None
        async with stream:
            with anyio.fail_after(ANSWER_WITHIN_S):
                await stream.send(msgspec.json.encode(request) + b"\n")
                return msgspec.json.decode(await _line(stream), type=DoorAnswer)


@contextlib.contextmanager
def _short(path: Path) -> Generator[str]:
    """A path of the socket that is short enough: the kernel takes 107 bytes, however deep the folder lies."""
    name = f"{path.stem}.sock"
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{name}" if Path("/proc/self/fd").is_dir() else str(path.with_name(name))
    finally:
        os.close(folder)


async def _line(stream: anyio.abc.SocketStream) -> bytes:
    data = b""
    while b"\n" not in data and len(data) < LINE_BYTES_MAX:
        try:
            data += await stream.receive()
        except anyio.EndOfStream:
            break
    return data
