"""What the approver says: gates, and the words of people."""

from __future__ import annotations

from typing import Literal

import msgspec

from linestop.schemas.events.envelope import Event, Moment, Text
from linestop.schemas.events.validator import Provenance
from linestop.schemas.tool_contracts import Tier


class ClearedCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A call that needs nobody. ``rule`` names why."""

    call: str
    rule: str
    args_sha256: str
    standing: str = ""


class Cleared(Event, frozen=True, kw_only=True):
    """These calls may start."""

    calls: tuple[ClearedCall, ...]


class AskedCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a person is asked to agree to: exactly this tool, contract and arguments, until ``expires_at``.

    ``wider`` says in one sentence what the contract allows in addition to the one that was agreed to before.
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
    escalate: str = ""
    wider: str = ""


class Question(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A question of the model to a person (``ask.person``) or a wait for an event (``wait.for_event``)."""

    call: str
    text: str
    options: tuple[str, ...] = ()
    expires_at: Moment


class SpendQuestion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """May the run go on spending?"""

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
    """A person said no, or nobody answered in time (``by`` is ``timer``)."""

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

    ``approves``: it is also the person's approval of what they wrote. None in logs of versions that asked again
    after every edit and did not tell the model of it.

    ``shown_sha256``, ``contract_digest``, ``nonce`` and ``expires_at`` are the person's own, as they signed them
    (here and in ``Answered`` and ``Resolved``): without them nobody could check the signature from the log.
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

    ``event`` is its name if it reports one (`wait.for_event`). Without a ``call`` the report is kept until a call waits
    for it; that one is answered from it, and ``reported_n`` is its number. ``untrusted``: it came with a client's
    credential and no person's signature, so its values are nobody's word.
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
    """A person said what became of a call whose fate was unknown."""

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
    """Nothing may start until ``resumed``; deadlines go on."""

    by: str
    why: str = ""


class Resumed(Event, frozen=True, kw_only=True):
    """Work may start again."""

    by: str
    why: str = ""
