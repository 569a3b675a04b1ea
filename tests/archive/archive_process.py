"""A recorder's archive in a separate process, to be killed: ``archive_process.py URL SEED FILE before|after``.

It prints a line and stands still when its first batch is written: before the commit, or after it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import anyio

from linestop.archive import writer
from linestop.archive.duckdb_file import ArchiveFile
from linestop.bus.access.credentials import Credential
from linestop.bus.connection import connect
from linestop.bus.interfaces import StoredMessage
from linestop.bus.jetstream import JetStream


class StandingStill(ArchiveFile):
    """A file whose first batch is never reported as stored."""

    before_commit = False

    def store(self, messages: Sequence[StoredMessage]) -> None:
        """Store the batch and stand still."""
        super().store(messages)
        stand_still()

    def _set_meta(self, name: str, value: int) -> None:
        super()._set_meta(name, value)
        if name == "watermark" and self.before_commit:
            stand_still()


def stand_still() -> None:
    """Report it and wait to be killed."""
    print("written", flush=True)
    while True:
        time.sleep(60)


async def main(url: str, seed: str, file: str, moment: str) -> None:
    """Archive until killed."""
    StandingStill.before_commit = moment == "before"
    setattr(writer, "ArchiveFile", StandingStill)  # noqa: B010 - the writer opens the file under that name
    async with await connect(
        Credential(url=url, user="recorder", seed=seed), name="archive to be killed"
    ) as connection:
        await writer.Archive(Path(file)).run(JetStream(connection).log())


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4])
