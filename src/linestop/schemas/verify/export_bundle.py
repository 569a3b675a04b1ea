"""A run's log as a file that can be verified without any broker: JSON lines.

One line each, distinguished by their fields::

    {"subject": …, "seq": …, "payload": …}           a message, its payload as text …
    {"subject": …, "seq": …, "payload_base64": …}    … or in base64, where it is not UTF-8
    {"checkpoint": {…}}                              a signed checkpoint
    {"blob": <sha256>, "data_base64": …}             a text that was too long for an event

The payload is the stored bytes, since the hashes are over them; unknown lines are skipped.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from linestop.errors import InputError
from linestop.schemas.verify.checkpoint_signature import Checkpoint


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """The content of such a file: messages in the form that ``verify`` takes, and the evidence about them."""

    messages: tuple[tuple[str, bytes, int], ...]
    checkpoints: tuple[Checkpoint, ...] = ()
    texts: Mapping[str, bytes] = {}


class _Line(msgspec.Struct, omit_defaults=True):
    subject: str = ""
    seq: int = 0
    payload: str | None = None
    payload_base64: str | None = None
    checkpoint: Checkpoint | None = None
    blob: str = ""
    data_base64: str = ""


_LINES = msgspec.json.Decoder(_Line)
_ENCODER = msgspec.json.Encoder()


def write_bundle(
    messages: Iterable[tuple[str, bytes, int]],
    *,
    checkpoints: Sequence[Checkpoint] = (),
    texts: Mapping[str, bytes] | None = None,
) -> Iterator[bytes]:
    """Write a log as lines, each ending in a newline."""
    for subject, payload, seq in messages:
        try:
            line = _Line(subject=subject, seq=seq, payload=payload.decode())
        except UnicodeDecodeError:
            line = _Line(subject=subject, seq=seq, payload_base64=base64.b64encode(payload).decode())
        yield _ENCODER.encode(line) + b"\n"
    for checkpoint in checkpoints:
        yield _ENCODER.encode(_Line(checkpoint=checkpoint)) + b"\n"
    for sha256, data in (texts or {}).items():
        yield _ENCODER.encode(_Line(blob=sha256, data_base64=base64.b64encode(data).decode())) + b"\n"


def read_bundle(lines: Iterable[bytes]) -> Bundle:
    """Read such a file back, line by line.

    Raises:
        InputError: a line is not JSON of this form; names its number.
    """
    messages: list[tuple[str, bytes, int]] = []
    checkpoints: list[Checkpoint] = []
    texts: dict[str, bytes] = {}
    for number, raw in enumerate(lines, 1):
        if not raw.strip():
            continue
        try:
            line = _LINES.decode(raw)
            payload = line.payload.encode() if line.payload is not None else _decode_base64(line.payload_base64)
            if line.subject and payload is not None:
                messages.append((line.subject, payload, line.seq))
            if line.checkpoint is not None:
                checkpoints.append(line.checkpoint)
            if line.blob:
                texts[line.blob] = _decode_base64(line.data_base64) or b""
        except (msgspec.DecodeError, RecursionError, UnicodeError, binascii.Error) as error:
            raise InputError(f"Line {number} is not a line of an exported log: {error}.") from None
    return Bundle(messages=tuple(messages), checkpoints=tuple(checkpoints), texts=texts)


def _decode_base64(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text, validate=True)
