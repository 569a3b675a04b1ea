"""Messages from outside: tasks and control messages, as any NATS client may send them (JSON)."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Literal, TypeVar, cast

import msgspec

from linestop.errors import InputError
from linestop.schemas.defaults import Limits
from linestop.schemas.events import Moment, StopMode
from linestop.schemas.json_values import JsonObject, JsonValue
from linestop.schemas.subjects import RunId
from linestop.schemas.tool_contracts import canonical

Verb = Literal["stop", "pause", "resume", "approve", "deny", "edit", "answer", "resolve"]
SIGNED_VERBS: frozenset[str] = frozenset({"approve", "deny", "edit", "resolve"})
REPLY_HEADER = "Linestop-Reply"
"""The header that names the inbox for the reply."""

OFFSET_HEADER = "Linestop-Offset"
"""The header of streamed model text: how many characters of the attempt's text came before."""


class Task(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A task for an agent, published on ``tasks.<tenant>.<agent>``.

    ``key`` makes it idempotent: the same key with the same task is the same run, with another task it is refused, for
    as long as the run's log is stored. A run that was refused, or ended before its first start, releases its key.
    ``run`` lets the client choose the run's id. ``limits`` may only lower the agent's.
    ``scope`` names the only tools that this task may use. ``material`` is text by a third party that the task is about
    (a customer's letter, a document): the model sees it as data, and it is not a trusted origin of values.
    """

    text: str
    material: str = ""
    user: str = ""
    submitter: str = ""
    labels: dict[str, str] = {}
    thread: str = ""
    key: str = ""
    run: str = ""
    priority: int = 0
    dry_run: bool = False
    scope: tuple[str, ...] | None = None
    limits: dict[str, float] = {}


class Control(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A control message of a person or service about a run, published on ``control.<tenant>.<run>.<verb>``.

    ``approve``, ``deny`` and ``edit`` name ``call`` and the ``args_sha256`` and ``contract_digest`` that were
    shown; ``answer`` carries ``answer``, and instead of ``call`` the name of an ``event`` if it reports
    one; ``resolve`` carries ``action`` and, for ``done``, ``result``.
    ``signature`` is Ed25519 over ``signed_bytes``, in hex, made with the key named ``key_id``.
    """

    by: str = ""
    why: str = ""
    via: str = ""
    call: str = ""
    args_sha256: str = ""
    contract_digest: str = ""
    args: JsonValue = None
    answer: JsonValue = None
    event: str = ""
    action: Literal["", "retry", "done", "stop"] = ""
    result: JsonValue = None
    mode: StopMode = StopMode.FENCE
    nonce: str = ""
    expires_at: Moment | None = None
    signature: str = ""
    key_id: str = ""


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The reply to a task or control message, sent to the inbox named in ``Linestop-Reply``."""

    status: str
    run: str = ""
    sentence: str = ""


M = TypeVar("M", Task, Control)


def unknown_field(fields: Iterable[str], kind: type[Task | Control]) -> str:
    """Return which of these fields a message of that kind does not have, with a suggestion; empty if it has them all.

    Ignoring an unknown field would ignore the sender's intent: a limit, or the digest of the approved arguments.
    """
    known = kind.__struct_fields__
    name = next((name for name in fields if name not in known), None)
    if name is None:
        return ""
    return f"the field '{name[:NAME_CHARS_SHOWN]}' is not known; {nearest_name(name, known)}"


def nearest_name(name: str, known: Sequence[str]) -> str:
    """Return a suggestion for a name that is not one of ``known``, or the list of these."""
    matches = get_close_matches(name[:NAME_CHARS_SHOWN].lower(), known, n=1)
    return f"perhaps '{matches[0]}' is meant" if matches else f"there are: {', '.join(known)}"


_MALFORMED_AT = re.compile(r"\(byte (\d+)\)")


def _is_not_finite(body: bytes, error: msgspec.DecodeError) -> bool:
    """Whether a message cannot be read because of NaN or an infinity, which some JSON encoders write."""
    found = _MALFORMED_AT.search(str(error))
    return found is not None and body.startswith((b"NaN", b"Infinity"), int(found[1]))


def read_message(body: bytes, kind: type[M]) -> M:
    """Read a message from outside.

    Raises:
        InputError: the message has an unknown field, or a number that is not finite.
        msgspec.DecodeError: the body is not a message of that kind.
    """
    try:
        message = msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        if "out of range" in str(error):
            place = str(error).partition(" - at ")[2].strip("`").removeprefix("$.")
            number = f"the number in '{place}'" if place else "a number"
            raise InputError(f"{number} is too large: send a smaller one") from None
        if _is_not_finite(body, error):
            raise InputError("NaN and the infinities are not numbers of JSON: send null or a text") from None
        raise
    if sentence := unknown_field(msgspec.json.decode(body, type=dict[str, msgspec.Raw]), kind):
        raise InputError(sentence)
    return message


def readable(body: bytes) -> Task:
    """Return the readable fields of an invalid task, so that its sender can find out which task it was."""
    try:
        fields = msgspec.json.decode(body, type=JsonObject)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return Task(text="")
    data: JsonValue = fields.get("data")
    if "text" not in fields and isinstance(data, dict):
        # A CloudEvent in structured mode carries its task there.
        fields = cast("JsonObject", data)
    found: Task = Task(text="")
    for name in ("user", "submitter", "labels", "key"):
        with contextlib.suppress(msgspec.ValidationError):
            kind = dict[str, str] if name == "labels" else str
            found = msgspec.structs.replace(found, **{name: msgspec.convert(fields.get(name, kind()), kind)})
    return found


def signed_bytes(tenant: str, run: str, verb: str, control: Control) -> bytes:
    """Return the bytes that a decision's signature covers: all fields that identify this decision."""
    expires = control.expires_at.isoformat() if control.expires_at else ""
    bound = [tenant, run, control.call, control.args_sha256, control.contract_digest, verb, expires, control.nonce]
    # Answers need no signature, so the field is covered only if it is set: the bytes of the other verbs do not change.
    optional_reply = [] if control.answer is None else [control.answer]
    return canonical([*bound, control.by, control.args, control.action, control.result, *optional_reply])


NAME_CHARS_SHOWN = 80
"""The most characters of a received name that are repeated and compared."""

FIELD_CHARS_MAX = 2_000
"""The most characters of a name, a key or a reason in a message. Only the content of a message may be longer."""

UNREADABLE = "The stop came without a reason that can be read."

_CONTENT = frozenset({"text", "material", "run", "args", "answer", "result"})


def oversized_field(message: Task | Control) -> str:
    """Return which short field of the message is too long for its event, in one sentence; empty if none is."""
    for name in message.__struct_fields__:
        value = getattr(message, name)
        if isinstance(value, str) and len(value) > FIELD_CHARS_MAX and name not in _CONTENT:
            return f"The field '{name}' has {len(value)} characters; at most {FIELD_CHARS_MAX} are allowed."
    return ""


def shorten(control: Control) -> Control:
    """Return ``control`` with its short fields cut and made valid text: a stop is not refused because of them."""
    cut = {
        name: value[:FIELD_CHARS_MAX].encode(errors="replace").decode()
        for name in control.__struct_fields__
        if name not in _CONTENT and type(value := getattr(control, name)) is str
    }
    return msgspec.structs.replace(control, **cut)


def read_stop(payload: bytes) -> Control:
    """Return the readable fields of a stop's body: the subject alone is a stop.

    A sender of ``enough!`` instead of JSON, or of a field of the wrong type, wants the run to end all the same.
    """
    try:
        return shorten(msgspec.json.decode(payload or b"{}", type=Control))
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        pass
    try:
        fields = msgspec.json.decode(payload, type=JsonObject)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return Control(why=UNREADABLE)
    by, via, why = (text if isinstance(text := fields.get(name), str) else "" for name in ("by", "via", "why"))
    return shorten(Control(by=by, via=via, why=why or UNREADABLE, mode=StopMode(str(fields.get("mode", "")))))


def lower_limits(limits: Limits, requested: dict[str, float]) -> Limits | str:
    """Return ``limits`` with each requested value that is lower; or one sentence that names an invalid request."""
    changes: JsonObject = {}
    for name, value in requested.items():
        if name not in Limits.__struct_fields__:
            return (
                f"There is no limit named '{name[:NAME_CHARS_SHOWN]}'; {nearest_name(name, Limits.__struct_fields__)}."
            )
        present = getattr(limits, name)
        if value < 0:
            return f"The limit '{name}' is {value}, but no limit may be negative."
        if value < present:
            changes[name] = type(present)(value)
    return msgspec.structs.replace(limits, **changes)


def run_of_key(tenant: str, key: str) -> RunId:
    """Return the first run of a key, which any client can compute."""
    return RunId("k-" + hashlib.sha256(f"{tenant}\0{key}".encode()).hexdigest()[:40])


def require_size(control: Control) -> None:
    """Refuse a control message with a field that is too long for its event.

    Raises:
        InputError: naming the field and its limit.
    """
    if sentence := oversized_field(control):
        raise InputError(sentence)
