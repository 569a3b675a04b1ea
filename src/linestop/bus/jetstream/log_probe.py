"""Checks by writing, at no lasting cost, whether the log can be written to.

There are two probes, because a full disk breaks each stream separately, when it writes:

- *store*: a message in PROBES, which replaces the credential's previous one. The broker replies when it is written.
- *append*: a role's newest event once more, under its own subject, which RUNS stores only once. A working stream
  refuses the message because the subject is taken; a broken stream does not reply. The probe names that event as the
  last one of its subject, so that it is not stored even if the event expires at that moment.
"""

from __future__ import annotations

import os

from linestop.bus.access.credentials import Credential
from linestop.bus.jetstream.reads import Reader
from linestop.bus.jetstream.replies import PubAck, meaning, read_ack
from linestop.bus.jetstream.retry import NotStored
from linestop.bus.streams import stream_names
from linestop.bus.streams.stream_definitions import PROBE_BYTES
from linestop.bus.wire import NO_HEADERS, NoReply, NoResponders, Wire, header_block
from linestop.errors import Unreachable
from linestop.schemas.subjects import ROLES


async def probe_log(wire: Wire, credential: Credential) -> None:
    """Check as this credential that the broker stores messages.

    Raises:
        NotStored: the broker replies, but does not store.
        Unreachable: the broker does not reply, or the stream for probes is missing or has no leader.
        PermissionDenied: an outside broker does not have the new permissions yet.
    """
    ack = await _publish_and_read_ack(
        wire, stream_names.PROBES, stream_names.probe_subject(credential.user), os.urandom(PROBE_BYTES)
    )
    if meaning(ack) not in {"stored", "duplicate"}:
        raise NotStored(f"The broker does not store a probe: {ack.error.description if ack.error else 'no reason'}.")
    if credential.user in ROLES:
        await _repeat_last_append(wire, credential.user)


async def _repeat_last_append(wire: Wire, role: str) -> None:
    event = await Reader(wire, stream_names.RUNS).last(f"runs.*.*.{role}.>")
    if event is None:
        return
    headers = header_block(
        {
            "Nats-Expected-Last-Subject-Sequence": str(event.seq),
            "Nats-Expected-Last-Subject-Sequence-Subject": event.subject,
        }
    )
    await _publish_and_read_ack(wire, stream_names.RUNS, event.subject, event.payload, headers=headers)


async def _publish_and_read_ack(
    wire: Wire, stream: str, subject: str, payload: bytes, *, headers: bytes = NO_HEADERS
) -> PubAck:
    try:
        return read_ack((await wire.request(subject, payload, headers=headers)).data)
    except NoResponders:
        raise Unreachable(
            f"The stream {stream} is missing or has no leader: `linestop dev` or `linestop bus init` creates it."
        ) from None
    except NoReply:
        if not await wire.is_responding():
            raise
        raise NotStored(
            f"The broker can be reached, but {stream} does not store: usually the disk with its data is full, or was "
            f"when {stream} last wrote. Free space there; `linestop dev` then continues by itself, another broker must "
            "be started again."
        ) from None
