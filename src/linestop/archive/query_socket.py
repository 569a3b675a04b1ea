"""Lets other processes of this machine query an open archive: a Unix socket beside it, for its owner only.

DuckDB lets no other process open the file. So the recorder reports the archive's state and where its oldest open run
begins, exports runs that were removed from the log, and makes snapshots. A connection carries one request and one
reply, each as JSON in one line.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Literal, TypeVar

import anyio
import anyio.abc
import msgspec

from linestop.archive.requests import ArchiveStatus, Reach, RunQuery
from linestop.errors import LinestopError, RetryableError, TimedOut
from linestop.schemas.broker_defaults import ARCHIVE_REPLY_WAIT_S, REPLY_WAIT_S

T = TypeVar("T")

LINE_BYTES_MAX: Final = 64 * 1024


class QueryRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request; ``path`` is the file for a snapshot or for exported runs."""

    want: Literal["status", "reach", "snapshot", "runs"]
    path: str = ""
    runs: RunQuery | None = None


class QueryReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The archive's status after the request, or the error; ``reach`` if the request was for it."""

    status: ArchiveStatus | None = None
    reach: Reach | None = None
    error: str = ""


class QuerySocket:
    """Answers requests about one open archive at ``path``; ``handle`` makes each reply."""

    def __init__(self, path: Path, handle: Callable[[QueryRequest], Awaitable[QueryReply]]) -> None:
        self._path = path
        self._handle = handle

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[None]:
        """Listen until the block ends."""
        with _short_path(self._path) as socket:
            # Only the process that has the archive open listens, so an existing socket is a leftover.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(socket)  # noqa: PTH108 - see _short
            listener = await anyio.create_unix_listener(socket, mode=0o600)
            async with listener, anyio.create_task_group() as tasks:
                tasks.start_soon(listener.serve, self._serve_request)
                try:
                    yield
                finally:
                    tasks.cancel_scope.cancel()
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(socket)  # noqa: PTH108 - see _short

    async def _serve_request(self, stream: anyio.abc.SocketStream) -> None:
        async with stream:
            try:
                reply = await self._handle(msgspec.json.decode(await _read_line(stream), type=QueryRequest))
            except (LinestopError, msgspec.DecodeError, OSError) as error:
                reply = QueryReply(error=str(error))
            except Exception as error:  # noqa: BLE001 - the database's own errors go to the caller
                reply = QueryReply(error=f"{type(error).__name__}: {error}")
            with contextlib.suppress(anyio.BrokenResourceError):
                await stream.send(msgspec.json.encode(reply) + b"\n")


async def ask_recorder(path: Path, request: QueryRequest) -> ArchiveStatus | None:
    """Send a request to the recorder that has the archive ``path`` open; None if no recorder has.

    Raises:
        RetryableError: the recorder refused; the message contains its reason.
    """
    reply = await _exchange(path, request)
    return None if reply is None else _require_reply(path, reply, reply.status)


async def ask_reach(path: Path) -> Reach | None:
    """Ask the same recorder for its watermark and its oldest open run; None if no recorder has the archive open.

    Raises:
        RetryableError: the recorder refused; the message contains its reason.
    """
    reply = await _exchange(path, QueryRequest(want="reach"))
    return None if reply is None else _require_reply(path, reply, reply.reach)


def _require_reply(path: Path, reply: QueryReply, found: T | None) -> T:
    if reply.error or found is None:
        why = reply.error.removesuffix(".") or "its reply was empty"
        raise RetryableError(f"The recorder of {path} refused: {why}.")
    return found


async def _exchange(path: Path, request: QueryRequest) -> QueryReply | None:
    with _short_path(path) as socket:
        try:
            stream = await anyio.connect_unix(socket)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            return None
        async with stream:
            is_copy = request.want == "snapshot" or request.runs is not None
            within_s = ARCHIVE_REPLY_WAIT_S if is_copy else REPLY_WAIT_S
            try:
                with anyio.fail_after(within_s):
                    await stream.send(msgspec.json.encode(request) + b"\n")
                    return msgspec.json.decode(await _read_line(stream), type=QueryReply)
            except TimeoutError:
                raise TimedOut(f"The recorder of {path} did not answer within {within_s:g} s: try again.") from None


@contextlib.contextmanager
def _short_path(path: Path) -> Generator[str]:
    """Give a short enough path of the socket: the kernel's limit is 107 bytes, however deep the folder is."""
    name = f"{path.stem}.sock"
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{name}" if Path("/proc/self/fd").is_dir() else str(path.with_name(name))
    finally:
        os.close(folder)


async def _read_line(stream: anyio.abc.SocketStream) -> bytes:
    data = b""
    while b"\n" not in data and len(data) < LINE_BYTES_MAX:
        try:
            data += await stream.receive()
        except anyio.EndOfStream:
            break
    return data
