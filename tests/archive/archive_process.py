"""A recorder's archive in a separate process, to be killed: ``archive_process.py URL PASSWORD FILE``.

It prints a line when it has committed its first batch, and never acknowledges anything.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import anyio

from linestop.archive.writer import Archive
from linestop.bus.access.credentials import Credential
from linestop.bus.connection import connect
from linestop.bus.interfaces import Delivery, PullCapacity, Queue
from linestop.bus.jetstream import JetStream
from linestop.bus.streams import stream_names
from linestop.bus.streams.stream_definitions import consumers


class NeverAcknowledged:
    """A delivery whose acknowledgement is never sent."""

    def __init__(self, delivery: Delivery) -> None:
        self.subject = delivery.subject
        self.payload = delivery.payload
        self.headers = delivery.headers
        self.seq = delivery.seq
        self.stored_at = delivery.stored_at
        self.attempt = delivery.attempt

    async def ack(self) -> None:
        print("committed", flush=True)
        await anyio.sleep_forever()

    async def in_progress(self) -> None:
        """Send nothing."""

    async def nak(self, delay_s: float) -> None:
        del delay_s

    async def term(self, reason: str) -> None:
        del reason


class NeverAcknowledgedQueue:
    """A queue of such deliveries."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    async def deliveries(
        self, *, in_flight_max: int = 64, capacity: PullCapacity | None = None
    ) -> AsyncGenerator[Delivery]:
        async for delivery in self._queue.deliveries(in_flight_max=in_flight_max, capacity=capacity):
            yield NeverAcknowledged(delivery)


async def main(url: str, seed: str, file: str) -> None:
    """Archive until killed."""
    credential = Credential(url=url, user="recorder", seed=seed)
    async with await connect(credential, name="archive to be killed") as connection:
        stream = await JetStream.open(connection)
        feed = next(spec for spec in consumers() if spec.name == stream_names.FEED)
        await Archive(Path(file)).run(stream.log(), NeverAcknowledgedQueue(stream.queue(feed)))


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2], sys.argv[3])
