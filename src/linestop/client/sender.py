"""Sending tasks and control messages to linestop, and receiving the replies of roles.

A message is stored once its stream has acknowledged it. The reply is a courtesy on core NATS: without a reply, the
message still counts.
"""

from __future__ import annotations

import json
import random
import secrets
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import msgspec

from linestop.bus.cloud_events import JSON_TYPE, timestamp
from linestop.bus.connection import Connection
from linestop.bus.event_message import uuid7
from linestop.bus.jetstream.retry import publish
from linestop.bus.wire import Wire, header_block
from linestop.client.credentials import load_key, sign
from linestop.client.result_types import Submitted
from linestop.client.waiting import ReplyInbox, reply_within
from linestop.errors import InputError, Refused, TimedOut, TooLarge
from linestop.schemas import subjects
from linestop.schemas.broker_defaults import REPLY_WAIT_S
from linestop.schemas.defaults import CONTROL_BYTES_MAX, MESSAGE_BYTES_MAX
from linestop.schemas.messages import REPLY_HEADER, SIGNED_VERBS, Control, Reply, Task, Verb, run_of_key
from linestop.schemas.subjects import AgentName, RunId, TenantId, run_id
from linestop.schemas.text.value_size import OversizedError, json_size
from linestop.schemas.trace_context import TraceContext

SOURCE: Final = "/linestop/client"
TASK_TYPE: Final = "io.linestop.task"
CONTROL_TYPE: Final = "io.linestop.control"

_STORED_NOT_OPENED: Final = (
    "The broker has stored the task, but no validator has opened it yet: check that the actors run (`linestop health`)."
)


class Sender:
    """Sends messages over one connection; ``people`` is the folder of the keys that sign decisions."""

    def __init__(self, connection: Connection, wire: Wire, people: Path | None) -> None:
        self._wire = wire
        self._people = people
        self._replies = ReplyInbox(connection)
        self._operator = connection.credential.user == "operator"

    async def send_task(self, tenant: TenantId, agent: AgentName, task: Task, *, wait_s: float) -> Submitted:
        """Store a task; wait at most ``wait_s`` for the validator to open or refuse it."""
        run = run_id(task.run) if task.run else run_id_for(tenant, task.key)
        # The client chooses the run id, so that it finds the run even if no reply ever comes.
        task_with_run = msgspec.structs.replace(task, run="" if task.key and not task.run else run)
        subject = subjects.task(tenant, agent)
        reply = await self._send(
            subject,
            _encoded(task_with_run, "task"),
            message_headers(run, TASK_TYPE),
            wait_s=wait_s,
            wants_reply=wait_s > 0,
        )
        if reply is None:
            return Submitted(run=run, status="kept", sentence=_STORED_NOT_OPENED if wait_s > 0 else "")
        status: Literal["opened", "refused"] = "opened" if reply.status == "opened" else "refused"
        return Submitted(run=reply.run or run, status=status, sentence=reply.sentence)

    async def send_control(self, tenant: TenantId, run: RunId, verb: Verb, control: Control) -> Reply:
        """Store a control message about a run, signed if the verb requires it and there is a key; return the reply.

        Raises:
            Refused: the message changes nothing; with the reason.
            InputError: it has an unpaired surrogate or a number that is not finite; ``TooLarge`` if it is too long.
            TimedOut: no role has handled it yet.
        """
        # Only an operator may publish a `reply`, so roles trust it: see docs/any-client.md.
        is_from_operator = verb == "answer" and self._operator
        subject = subjects.control(tenant, run, verb="reply" if is_from_operator else verb)
        _encoded(control, verb)
        if verb in SIGNED_VERBS and (key := load_key(self._people, control.by)) is not None:
            control = sign(control, key, tenant=tenant, run=run, verb=verb)
        reply = await self._send(
            subject, _encoded(control, verb), message_headers(run, CONTROL_TYPE), wait_s=REPLY_WAIT_S, wants_reply=True
        )
        if reply is None:
            raise TimedOut(
                f"No actor has handled the {verb} of run '{run}' within {REPLY_WAIT_S:g} s; it is stored and takes "
                "effect when the actors run (`linestop dev`, `linestop health`)."
            )
        if reply.status != "done":
            raise Refused(reply.sentence or f"The {verb} of run '{run}' was refused.")
        return reply

    async def _send(
        self, subject: str, payload: bytes, headers: dict[str, str], *, wait_s: float, wants_reply: bool
    ) -> Reply | None:
        """Store a message; return the reply, or None if none was requested or none came."""
        if not wants_reply:
            await publish(self._wire, subject, payload, headers=header_block(headers))
            return None
        await self._replies.open()
        with self._replies.expect() as (inbox, future):
            await publish(self._wire, subject, payload, headers=header_block({**headers, REPLY_HEADER: inbox}))
            return await reply_within(future, wait_s)


_MEASURED_BYTES_MAX: Final = 16 * MESSAGE_BYTES_MAX
"""A larger message is not even encoded; a smaller one that is too large is refused with its size."""


def _encoded(message: Task | Control, kind: str) -> bytes:
    """The message as JSON.

    Raises:
        InputError: a text cannot be written as UTF-8, or a number is not finite.
        TooLarge: the message has more bytes than allowed.
    """
    bytes_max = MESSAGE_BYTES_MAX if isinstance(message, Task) else CONTROL_BYTES_MAX
    try:
        # Measured before it is encoded: a value that shares its parts or contains itself can be endless as JSON.
        json_size(message, bytes_max=_MEASURED_BYTES_MAX)
        # msgspec silently writes NaN and the infinities as null.
        json.dumps(msgspec.to_builtins(message), allow_nan=False)
        payload = msgspec.json.encode(message)
    except OversizedError as error:
        raise TooLarge(f"The {kind} {error}.") from None
    except UnicodeEncodeError as error:
        raise InputError(f"The {kind} contains an unpaired surrogate ({error.reason}); remove it.") from None
    except ValueError as error:
        if not str(error).startswith("Out of range float"):
            raise
        raise InputError(
            f"The {kind} contains NaN or an infinity, which JSON cannot express: send null or a text."
        ) from None
    if len(payload) > bytes_max:
        raise TooLarge(
            f"The {kind} has {len(payload)} bytes; a message may have at most {bytes_max}: shorten it, or put the "
            "long part where a tool can read it."
        )
    return payload


def run_id_for(tenant: str, key: str) -> RunId:
    """The id of the run of a task with this key, derived from it; without a key a new one."""
    if key:
        return run_of_key(tenant, key)
    return RunId(uuid7(datetime.now(UTC), random.SystemRandom().getrandbits(74)))


def message_headers(run: str, event_type: str) -> dict[str, str]:
    """Headers of a message: CloudEvents, the caller's trace, and an id by which the stream stores it only once."""
    message_id = secrets.token_hex(16)
    return {
        "Nats-Msg-Id": message_id,
        "Content-Type": JSON_TYPE,
        **_callers_trace(),
        "ce-specversion": "1.0",
        "ce-id": message_id,
        "ce-source": SOURCE,
        "ce-type": event_type,
        "ce-subject": run,
        "ce-time": timestamp(datetime.now(UTC)),
        "ce-datacontenttype": JSON_TYPE,
    }


def _callers_trace() -> dict[str, str]:
    """The ``traceparent`` of the span that the calling program is in, if it uses OpenTelemetry and is in one."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        # A program that has not imported OpenTelemetry is in no span; importing it only to find that out is too slow.
        return {}
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {"traceparent": TraceContext(context.trace_id, context.span_id, context.trace_flags.sampled).traceparent()}
