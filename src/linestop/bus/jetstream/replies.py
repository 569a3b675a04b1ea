"""What a stream answers to a publish, and what it means. Pure: no connection here.

The hard cases are those where the broker's "no" may be about our own earlier attempt whose answer was lost:
10071 (another head), 10077 (the subject is taken) and a duplicate. They mean "look it up", not "conflict".
"""

from __future__ import annotations

import re
from typing import Final, Literal

import msgspec

_STORE_FAILED: Final = 10077
_SUBJECT_TAKEN: Final = "maximum messages per subject"
_HEAD = re.compile(r"wrong last sequence: (\d+)")

ReplyMeaning = Literal["stored", "duplicate", "superseded", "taken", "in_flight", "too_large", "full", "not_ready"]
"""What to do: done · check whose it is · look up, else conflict (twice) · again at once · refuse (twice) ·
again later."""

_REFUSALS: Final[dict[int, ReplyMeaning]] = {
    10071: "superseded",  # wrong last sequence: another head
    10158: "in_flight",  # the same message id is being stored
    10164: "in_flight",  # another append of the same run is being stored; only replicas say so
    10054: "too_large",  # over the stream's max_msg_size
    10077: "full",  # the store refused: over max_bytes
    10023: "full",  # insufficient resources
    10028: "full",  # memory limit of the account
    10047: "full",  # storage limit of the account or the server
}


class PubError(msgspec.Struct, frozen=True):
    """Why the stream did not store the message."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class PubAck(msgspec.Struct, frozen=True):
    """The answer to a publish on a stream's subject; ``seq`` counts only without an ``error``."""

    seq: int = 0
    duplicate: bool = False
    error: PubError | None = None


_DECODER: Final = msgspec.json.Decoder(PubAck)


def read_ack(payload: bytes) -> PubAck:
    """Decode an answer to a publish.

    Raises:
        msgspec.DecodeError: the bytes are not such an answer.
    """
    return _DECODER.decode(payload)


def meaning(ack: PubAck) -> ReplyMeaning:
    """Say what an answer asks of the publisher."""
    error = ack.error
    if error is None:
        return "duplicate" if ack.duplicate else "stored"
    if error.err_code == _STORE_FAILED and _SUBJECT_TAKEN in error.description:
        return "taken"
    return _REFUSALS.get(error.err_code, "not_ready")


def head_in_refusal(ack: PubAck) -> int:
    """Return the head that a refusal names, 0 if it names none."""
    match = _HEAD.search(ack.error.description) if ack.error else None
    return int(match[1]) if match else 0
