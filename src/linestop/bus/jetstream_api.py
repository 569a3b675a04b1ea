"""The subjects of the JetStream API, and reading its replies.

They begin with ``PREFIX`` instead of ``$JS.API``. Every account of a server has its own import for ``$JS.API``,
which replies that JetStream is not enabled there before the account with the streams can reply. The server's
configuration maps the prefix to that account (see ``server/nats_config.py``).
"""

from __future__ import annotations

from typing import Final

import msgspec

from linestop.errors import Refused
from linestop.schemas.json_values import JsonObject

PREFIX: Final = "LINESTOP.API"
SERVER_PREFIX: Final = "$JS.API"

STREAM_NOT_FOUND: Final = 10059
CONSUMER_NOT_FOUND: Final = 10014
STREAM_EXISTS: Final = 10058
CONSUMER_EXISTS: Final = 10148
CONSUMER_NAME_USED: Final = 10013


class ApiError(Refused):
    """Raised when JetStream refuses a request; ``err_code`` is the server's number for the reason."""

    code = "jetstream"

    def __init__(self, message: str, *, err_code: int) -> None:
        super().__init__(message)
        self.err_code = err_code


class _Error(msgspec.Struct, frozen=True):
    description: str = "no reason given"
    err_code: int = 0


class _Reply(msgspec.Struct, frozen=True):
    error: _Error | None = None


def read_reply(subject: str, payload: bytes) -> JsonObject:  # the API's replies are open JSON objects
    """Return the reply to a request on ``subject`` as JSON.

    Raises:
        ApiError: if the reply says that the request failed.
    """
    error = msgspec.json.decode(payload, type=_Reply).error
    if error is not None:
        raise ApiError(
            f"JetStream refused {subject}: {error.description} (error {error.err_code}).",
            err_code=error.err_code,
        )
    return msgspec.json.decode(payload, type=JsonObject)


def stream_create(stream: str) -> str:
    """Build the subject that creates a stream."""
    return f"{PREFIX}.STREAM.CREATE.{stream}"


def stream_info(stream: str) -> str:
    """Build the subject that returns a stream's configuration and state."""
    return f"{PREFIX}.STREAM.INFO.{stream}"


def stream_update(stream: str) -> str:
    """Build the subject that changes a stream."""
    return f"{PREFIX}.STREAM.UPDATE.{stream}"


def message_get(stream: str) -> str:
    """Build the subject that reads one message from the stream's leader."""
    return f"{PREFIX}.STREAM.MSG.GET.{stream}"


def direct_get(stream: str) -> str:
    """Build the subject that reads messages, one or many, from any replica."""
    return f"{PREFIX}.DIRECT.GET.{stream}"


def direct_get_last(stream: str, subject: str) -> str:
    """Build the subject that reads the last message of a subject from any replica."""
    return f"{PREFIX}.DIRECT.GET.{stream}.{subject}"


def consumer_create(stream: str, consumer: str) -> str:
    """Build the subject that creates a named consumer."""
    return f"{PREFIX}.CONSUMER.CREATE.{stream}.{consumer}"


def consumer_info(stream: str, consumer: str) -> str:
    """Build the subject that returns a consumer's configuration and state."""
    return f"{PREFIX}.CONSUMER.INFO.{stream}.{consumer}"


def consumer_delete(stream: str, consumer: str) -> str:
    """Build the subject that deletes a consumer."""
    return f"{PREFIX}.CONSUMER.DELETE.{stream}.{consumer}"


def consumer_next(stream: str, consumer: str) -> str:
    """Build the subject that pulls from a consumer."""
    return f"{PREFIX}.CONSUMER.MSG.NEXT.{stream}.{consumer}"


def consumer_ack(stream: str, consumer: str) -> str:
    """Build the filter of all acknowledgements of a consumer."""
    return f"$JS.ACK.{stream}.{consumer}.>"


def server_subject(subject: str) -> str:
    """Return the subject as the server knows it: subjects of the API get the server's own prefix."""
    if subject.startswith(f"{PREFIX}."):
        return SERVER_PREFIX + subject[len(PREFIX) :]
    return subject
