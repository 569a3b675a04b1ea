"""The meaning of a stream's replies, from the bytes of a real server: a single one, and one of three."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest

from linestop.bus.interfaces import Append, HeadMoved
from linestop.bus.jetstream.log import JetStreamLog
from linestop.bus.jetstream.reads import StreamMessage
from linestop.bus.jetstream.replies import ReplyMeaning, head_in_refusal, meaning, read_ack
from linestop.bus.wire import Wire
from linestop.schemas.subjects import RunId, TenantId

pytestmark = pytest.mark.anyio


def refused(code: int, err_code: int, description: str) -> bytes:
    """A refusal in the servers' form."""
    error = f'{{"code":{code},"err_code":{err_code},"description":"{description}"}}'
    return f'{{"error":{error},"stream":"RUNS","seq":0}}'.encode()


STORED = b'{"stream":"RUNS","seq":7}'
DUPLICATE = b'{"stream":"RUNS","seq":7,"duplicate": true}'
SUPERSEDED = refused(400, 10071, "wrong last sequence: 12")
TAKEN = refused(503, 10077, "maximum messages per subject exceeded")
REPLIES: list[tuple[bytes, ReplyMeaning, int]] = [
    (STORED, "stored", 0),
    (DUPLICATE, "duplicate", 0),
    (SUPERSEDED, "superseded", 12),
    (refused(400, 10164, "wrong last sequence"), "in_flight", 0),
    (refused(409, 10158, "duplicate message id is in process"), "in_flight", 0),
    (TAKEN, "taken", 0),
    (refused(503, 10077, "maximum bytes exceeded"), "full", 0),
    (refused(400, 10054, "message size exceeds maximum allowed"), "too_large", 0),
    (refused(503, 10023, "insufficient resources"), "full", 0),
    (refused(400, 10028, "resource limits exceeded for account"), "full", 0),
    (refused(500, 10047, "insufficient storage resources available"), "full", 0),
    (refused(503, 10008, "JetStream system temporarily unavailable"), "not_ready", 0),
]


@pytest.mark.parametrize(("reply", "means", "head"), REPLIES, ids=[f"{row[1]}-{row[0][:40]!r}" for row in REPLIES])
def test_every_reply_of_a_stream_has_its_meaning(reply: bytes, means: ReplyMeaning, head: int) -> None:
    """Only a superseded append learns the head; after an unknown reply the publisher tries again later."""
    ack = read_ack(reply)
    assert (meaning(ack), head_in_refusal(ack)) == (means, head)


class StubReader:
    """The stored message that a read returns."""

    def __init__(self, message: StreamMessage | None) -> None:
        self.message = message
        self.requested: list[object] = []

    async def last(self, subject: str) -> StreamMessage | None:
        """The last message of a subject."""
        self.requested.append(subject)
        return self.message


SUBJECT = "runs.t.r.planner.stopped.2"
OURS = StreamMessage(subject=SUBJECT, payload=b"ours", seq=7, headers={})
RIVAL = msgspec.structs.replace(OURS, payload=b"theirs")


@pytest.mark.parametrize(
    ("reply", "stored_message", "head"),
    [
        (SUPERSEDED, OURS, None),
        (SUPERSEDED, RIVAL, 12),
        (SUPERSEDED, None, 12),
        (TAKEN, OURS, None),
        (TAKEN, RIVAL, 0),
        (refused(400, 10164, "wrong last sequence"), OURS, None),
        (refused(400, 10164, "wrong last sequence"), None, 0),
    ],
)
async def test_a_refused_append_is_ours_only_if_the_very_bytes_are_stored(
    reply: bytes, stored_message: StreamMessage | None, head: int | None
) -> None:
    """After a lost reply our own append looks refused; a rival's event is a conflict."""
    log = JetStreamLog(cast("Wire", None))
    reader = StubReader(stored_message)
    cast("Any", log)._reader = reader
    append = Append(
        tenant=TenantId("t"),
        run=RunId("r"),
        role="planner",
        event="stopped",
        n=2,
        head_seq=6,
        payload=b"ours",
    )
    resolution = cast("Any", log)._resolve_refusal(append, SUBJECT, read_ack(reply))
    if head is None:
        assert await resolution == 7
    else:
        with pytest.raises(HeadMoved) as moved:
            await resolution
        assert moved.value.head_seq == head
    assert reader.requested == [SUBJECT]
