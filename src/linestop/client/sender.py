"""Saying something to linestop: a task, or a word about a run, and hearing what a role answers.

What is said is kept once its stream has acknowledged it. The answer is a courtesy on core NATS: without one,
what was said still counts.
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
from linestop.bus.event_envelope import uuid7
from linestop.bus.jetstream.retry import publish
from linestop.bus.jetstream.wire import Wire, header_block
from linestop.client.credentials import load_key, sign
from linestop.client.result_types import Submitted
from linestop.client.waiting import ReplyInbox, reply_within
from linestop.errors import InputError, Refused, TimedOut, TooLarge
from linestop.schemas import subjects
from linestop.schemas.defaults import CONTROL_BYTES_MAX, MESSAGE_BYTES_MAX
from linestop.schemas.messages import REPLY_HEADER, SIGNED_VERBS, Control, Reply, Task, Verb
from linestop.schemas.subjects import AgentName, RunId, TenantId, run_id
from linestop.schemas.trace_context import TraceContext
from linestop.schemas.value_size import OversizedError, json_size

REPLY_WAIT_S: Final = 10.0
"""How long to wait for a role's answer to a task or a word. What was said is kept in any case."""

SOURCE: Final = "/linestop/client"
TASK_TYPE: Final = "io.linestop.task"
CONTROL_TYPE: Final = "io.linestop.control"

_STORED_NOT_OPENED: Final = (
    "The broker keeps the task, but nobody has opened it yet: see that the actors run (`linestop health`)."
)


class Sender:
    """Says things over one connection; ``people`` is the folder of the keys that decisions are signed with."""

    def __init__(self, connection: Connection, wire: Wire, people: Path | None) -> None:
        self._wire = wire
        self._people = people
        self._replies = ReplyInbox(connection)
        self._operator = connection.credential.user == "operator"

    async def send_task(self, tenant: TenantId, agent: AgentName, task: Task, *, wait_s: float) -> Submitted:
        """Store a task; wait at most ``wait_s`` for the validator to let it in."""
        run = run_id(task.run) if task.run else _run_id_for(tenant, task)
        # A run id of the client's own lets it find the run again even if no answer ever comes.
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
        """Store a word about a run, signed if it must be and can be; return what it became.

        Raises:
            Refused: it changes nothing; with the reason.
            InputError: a text in it is none; ``TooLarge`` if it is too long for a message.
            TimedOut: nobody has taken it up yet.
        """
        # An answer that a client could not have given is believed: see docs/any-client.md.
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
                f"Nobody has taken up the {verb} of run '{run}' within {REPLY_WAIT_S:g} s; it is "
                f"kept and will count when "
                "the actors run (`linestop dev`, `linestop health`)."
            )
        if reply.status != "done":
            raise Refused(reply.sentence or f"The {verb} of run '{run}' was refused.")
        return reply

    async def _send(
        self, subject: str, payload: bytes, headers: dict[str, str], *, wait_s: float, wants_reply: bool
    ) -> Reply | None:
        """Store a message; return the answer, or None if none was wanted or came."""
        if not wants_reply:
            await publish(self._wire, subject, payload, headers=header_block(headers))
            return None
        await self._replies.open()
        with self._replies.expect() as (inbox, future):
            await publish(self._wire, subject, payload, headers=header_block({**headers, REPLY_HEADER: inbox}))
            return await reply_within(future, wait_s)


_MEASURED_BYTES_MAX: Final = 16 * MESSAGE_BYTES_MAX
"""What is larger is not written at all; what is just too large is refused with its size."""


def _encoded(message: Task | Control, what: str) -> bytes:
    """What goes onto the wire.

    Raises:
        InputError: a text in it cannot be written as UTF-8, or a number is not finite.
        TooLarge: no message may have so many bytes.
    """
    bytes_max = MESSAGE_BYTES_MAX if isinstance(message, Task) else CONTROL_BYTES_MAX
    try:
        # Before it is written: what shares its parts or holds itself has no end as JSON.
        json_size(message, bytes_max=_MEASURED_BYTES_MAX)
        # The fast writer makes null of NaN and the infinities without a word.
        json.dumps(msgspec.to_builtins(message), allow_nan=False)
        payload = msgspec.json.encode(message)
    except OversizedError as error:
        raise TooLarge(f"The {what} {error}.") from None
    except UnicodeEncodeError as error:
        raise InputError(f"The {what} holds half a character ({error.reason}), which is no text: remove it.") from None
    except ValueError as error:
        if not str(error).startswith("Out of range float"):
            raise
        raise InputError(
            f"The {what} contains NaN or an infinity, which JSON cannot express: send null or a text."
        ) from None
    if len(payload) > bytes_max:
        raise TooLarge(
            f"The {what} has {len(payload)} bytes and a message at most {bytes_max}: shorten it, or put "
            "what is long where a tool can read it."
        )
    return payload


def _run_id_for(tenant: TenantId, task: Task) -> RunId:
    """The run a task will be: its key's, else a fresh one."""
    if task.key:
        # Imported here because it takes half of the actors along, and few tasks have keys.
        from linestop.bus.idempotency_keys import run_of_key  # noqa: PLC0415

        return run_of_key(tenant, task.key)
    return RunId(uuid7(datetime.now(UTC), random.SystemRandom().getrandbits(74)))


def message_headers(run: str, kind: str) -> dict[str, str]:
    """Headers of a message: CloudEvents, the caller's trace, and an id under which it is stored once."""
    own_id = secrets.token_hex(16)
    return {
        "Nats-Msg-Id": own_id,
        "Content-Type": JSON_TYPE,
        **_callers_trace(),
        "ce-specversion": "1.0",
        "ce-id": own_id,
        "ce-source": SOURCE,
        "ce-type": kind,
        "ce-subject": run,
        "ce-time": timestamp(datetime.now(UTC)),
        "ce-datacontenttype": JSON_TYPE,
    }


def _callers_trace() -> dict[str, str]:
    """The ``traceparent`` of the span that the calling program is in, if it uses OpenTelemetry and is in one."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        # A program that has not imported it is in no span, and it is not loaded only to learn that.
        return {}
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return {}
    return {"traceparent": TraceContext(context.trace_id, context.span_id, context.trace_flags.sampled).traceparent()}
