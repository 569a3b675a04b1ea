"""What the defaults of the archive do."""

# ruff: noqa: PLC0415 - each run has its own import of linestop

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Self, cast
from unittest.mock import patch

import anyio
from tests.schemas.default_cases import Cases, virtually

CASES = Cases()
case = CASES.case


@case("ARCHIVE_BATCH_EVERY_S", "9.0")
@case("ARCHIVE_MOVE_EVERY_S", "9.0")
def two_minutes_of_the_archive() -> object:
    """How often it reads the log and moves old runs."""
    from linestop.archive.writer import Archive

    count = {"read": 0, "moved": 0}

    async def store_new(*_: object) -> None:
        count["read"] += 1

    async def move_old(*_: object) -> int:
        count["moved"] += 1
        return 0

    async def main() -> dict[str, int]:
        archive = Archive(Path("archive.duckdb"), database_days=1)
        with (
            patch.object(Archive, "_store_new", store_new),
            patch.object(Archive, "move_old", move_old),
            anyio.move_on_after(120),
        ):
            await archive._follow(cast("Any", None))  # pyright: ignore[reportPrivateUsage]
        return count

    return virtually(main)


@case("ARCHIVE_RETRY_S", "20.0")
def a_minute_of_an_archive_that_fails() -> object:
    """How often its file is opened, and how often its writer is started."""
    from linestop.archive.writer import Archive
    from linestop.archive.writer_process import Writer

    tries: list[str] = []

    async def fail(part: object) -> None:
        tries.append(type(part).__name__)
        raise OSError(28, "No space left on device")

    async def main() -> list[str]:
        nothing = cast("Any", None)
        with patch.object(Archive, "_open", fail), patch.object(Writer, "_run_writer", fail):
            for running in (Archive(Path("a")).run(nothing), Writer(Path("a"), nothing).run()):
                with anyio.move_on_after(60):
                    await running
        return tries

    return virtually(main)


@case("ARCHIVE_REPLY_WAIT_S", "2.0")
def a_writer_that_does_not_answer() -> object:
    """When a command gives up."""
    from linestop.archive import query_socket
    from linestop.errors import TimedOut

    class Silent:
        async def __aenter__(self) -> Self:
            return self

        async def __aexit__(self, *_: object) -> None:
            return None

        async def send(self, _: bytes) -> None:
            await anyio.sleep_forever()

    async def connect_unix(_: str) -> Silent:
        return Silent()

    async def main() -> float:
        began = anyio.current_time()
        with tempfile.TemporaryDirectory() as folder, patch.object(anyio, "connect_unix", connect_unix):
            try:
                request = query_socket.QueryRequest(want="snapshot", path="copy.duckdb")
                await query_socket.ask_recorder(Path(folder) / "archive.duckdb", request)
            except TimedOut:
                return anyio.current_time() - began
        return 0.0

    return virtually(main)
