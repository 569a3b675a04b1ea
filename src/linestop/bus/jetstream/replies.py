"""A stream's replies to a publish, and their meaning. Pure: no connection here.

In the hard cases the broker may refuse because of our own earlier attempt whose reply was lost: 10071 (another head),
10077 (the subject is taken) and a duplicate. They mean "read the subject", not "conflict".
"""

from __future__ import annotations

import re
from typing import Final, Literal

import msgspec

_STORE_FAILED: Final = 10077
_SUBJECT_TAKEN: Final = "maximum messages per subject"
_HEAD = re.compile(r"wrong last sequence: (\d+)")

ReplyMeaning = Literal["stored", "duplicate", "superseded", "taken", "in_flight", "too_large", "full", "not_ready"]
"""In this order: done · check whose message it is · read, else conflict (twice) · try again at once · refuse (twice) ·
try again later."""

_REFUSALS: Final[dict[int, ReplyMeaning]] = {
    10071: "superseded",  # wrong last sequence: another head
    10158: "in_flight",  # the same message id is being stored
    10164: "in_flight",  # another append of the same run is being stored; only replicas report this
    10054: "too_large",  # over the stream's max_msg_size
    10077: "full",  # the store refused: over max_bytes
    10023: "full",  # insufficient resources
    10028: "full",  # memory limit of the account
    10047: "full",  # storage limit of the account or the server
}


class PubError(msgspec.Struct, frozen=True):
    """The reason why the stream did not store the message."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class PubAck(msgspec.Struct, frozen=True):
    """The reply to a publish on a stream's subject; ``seq`` is valid only without an ``error``."""

    seq: int = 0
    duplicate: bool = False
    error: PubError | None = None


_DECODER: Final = msgspec.json.Decoder(PubAck)


def read_ack(payload: bytes) -> PubAck:
    """Decode a reply to a publish.

    Raises:
        msgspec.DecodeError: the bytes are not such a reply.
    """
    return _DECODER.decode(payload)


def meaning(ack: PubAck) -> ReplyMeaning:
    """Return what the publisher has to do after a reply."""
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
