"""Events of the approver: clearings, questions, and the decisions of people."""

from __future__ import annotations

from typing import Literal

import msgspec

from linestop.schemas.events.envelope import Event, Moment, Text
from linestop.schemas.events.validator import Provenance
from linestop.schemas.tool_contracts import Tier


class ClearedCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A call that needs no person. ``rule`` gives the reason."""

    call: str
    rule: str
    args_sha256: str


class Cleared(Event, frozen=True, kw_only=True):
    """These calls may start."""

    calls: tuple[ClearedCall, ...]


class AskedCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A call that a person must approve: exactly this tool, contract and arguments, until ``expires_at``.

    ``wider`` states in one sentence what the contract allows in addition to the one that was agreed to before.
    """

    call: str
    tool: str
    args_sha256: str
    contract_digest: str
    rule: str
    tier: Tier
    expires_at: Moment
    reason: str = ""
    provenance: tuple[Provenance, ...] = ()
    cost_max_micros: int = 0
    deciders: tuple[str, ...] = ()
    quorum: int = 1
    wider: str = ""


class Question(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A question of the model to a person (``ask.person``) or a wait for an event (``wait.for_event``)."""

    call: str
    text: str
    options: tuple[str, ...] = ()
    expires_at: Moment


class SpendQuestion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The question whether the run may spend more."""

    so_far_micros: int
    limit_micros: int
    expires_at: Moment


class Asked(Event, frozen=True, kw_only=True):
    """The run waits for a person: about calls, a question, or its spending."""

    calls: tuple[AskedCall, ...] = ()
    question: Question | None = None
    spend: SpendQuestion | None = None


class Granted(Event, frozen=True, kw_only=True):
    """A person agreed to one call (or, with an empty ``call``, to the spending asked about)."""

    call: str
    by: str
    args_sha256: str = ""
    contract_digest: str = ""
    why: str = ""
    via: str = ""
    nonce: str = ""
    expires_at: Moment | None = None
    signature: str = ""
    key_id: str = ""


class Denied(Event, frozen=True, kw_only=True):
    """A person denied, or the question expired (``by`` is ``timer``)."""

    call: str
    by: str
    args_sha256: str = ""
    contract_digest: str = ""
    why: str = ""
    via: str = ""
    nonce: str = ""
    expires_at: Moment | None = None
    signature: str = ""
    key_id: str = ""


class Edited(Event, frozen=True, kw_only=True):
    """A person changed the arguments; the call is judged again with ``args`` (canonical JSON).

    ``approves``: the edit also approves the new arguments. None in logs of versions that asked again after every edit
    and did not show the edit to the model.

    ``shown_sha256``, ``contract_digest``, ``nonce`` and ``expires_at`` are the values that the person signed (here and
    in ``Answered`` and ``Resolved``): without them the signature could not be checked from the log.
    """

    call: str
    args: Text
    args_sha256: str
    by: str
    why: str = ""
    shown_sha256: str = ""
    contract_digest: str = ""
    nonce: str = ""
    expires_at: Moment | None = None
    signature: str = ""
    key_id: str = ""
    approves: bool | None = None


class Answered(Event, frozen=True, kw_only=True):
    """A person answered the question of ``call``; ``answer`` is any JSON value as text.

    ``event`` is the name of the event that it reports, if any (`wait.for_event`). Without a ``call`` the report is
    stored until a call waits for it; the answer to that call names the report in ``reported_n``. ``untrusted``: it came
    with a client's credential and without a person's signature, so no person vouches for its values.
    """

    call: str
    answer: Text
    by: str
    untrusted: bool = False
    shown_sha256: str = ""
    contract_digest: str = ""
    nonce: str = ""
    expires_at: Moment | None = None
    signature: str = ""
    key_id: str = ""
    event: str = ""
    reported_n: int = 0


class Resolved(Event, frozen=True, kw_only=True):
    """A person decided about a call whose outcome was unknown."""

    call: str
    action: Literal["retry", "done", "stop"]
    by: str
    result: Text = ""
    why: str = ""
    shown_sha256: str = ""
    contract_digest: str = ""
    nonce: str = ""
    expires_at: Moment | None = None
    signature: str = ""
    key_id: str = ""


class Paused(Event, frozen=True, kw_only=True):
    """Nothing may start until ``resumed``; deadlines continue."""

    by: str
    why: str = ""


class Resumed(Event, frozen=True, kw_only=True):
    """Work may start again."""

    by: str
    why: str = ""
