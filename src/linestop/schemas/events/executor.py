"""Events of the executor."""

from __future__ import annotations

from typing import Literal

import msgspec

from linestop.schemas.events.envelope import BlobRef, Event, Moment
from linestop.schemas.events.validator import ToolGrant
from linestop.schemas.tool_contracts import Egress, ToolError


class StartedCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One call of a start. ``gate_n`` is the event that let it pass.

    ``contract_digest`` is the contract under which the tool is called; empty for the one that the run was opened with.
    """

    call: str
    attempt: int
    effect_key: str
    args_sha256: str
    gate_n: int
    start_by: Moment
    done_by: Moment
    cost_max_micros: int = 0
    contract_digest: str = ""


class EffectStarted(Event, frozen=True, kw_only=True):
    """Effects begin. ``purpose`` ``probe`` only asks whether an earlier attempt took effect.

    ``dead_workers`` were known to be dead, so that their open starts counted as past their end.
    """

    calls: tuple[StartedCall, ...]
    worker: str
    purpose: Literal["effect", "probe"] = "effect"
    doors_revision: int = 0
    dead_workers: tuple[str, ...] = ()


class WidenedCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A call that has not begun, and the tool's present contract, which allows more than was agreed to."""

    call: str
    grant: ToolGrant


class Widened(Event, frozen=True, kw_only=True):
    """The tools of these calls may do more than was agreed to: a person is asked under the present contract.

    Earlier clearings, questions and grants for these calls no longer count.
    """

    calls: tuple[WidenedCall, ...]
    worker: str


class Finished(Event, frozen=True, kw_only=True):
    """The outcome of one attempt. ``result`` is JSON text, capped at ``limits.result_bytes_max``.

    ``result_bytes`` is the size before the cap; ``result_ref`` names the stored full result if it was cut, None if it
    could not be stored. ``late``: it came after another process had already ended this attempt.
    ``findings``: the defects of the result of a call that took effect, a sentence each; the model receives them.
    ``begun`` is false with the outcome ``never_started`` if the worker was too busy to begin by ``start_by``: such an
    attempt costs no try; without the field, in older logs, an attempt counts as begun.
    ``ended``: the tool's function itself has ended although the outcome is ``unknown``: a probe need not wait for it.
    ``dead_workers``: see ``EffectStarted``; used if another process ends the attempt.
    """

    call: str
    attempt: int
    outcome: Literal["succeeded", "failed", "unknown", "never_started"]
    result: str = ""
    result_ref: BlobRef | None = None
    result_sha256: str = ""
    result_bytes: int = 0
    error: ToolError | None = None
    egress: tuple[Egress, ...] = ()
    cost_micros: int = 0
    duration_s: float = 0.0
    late: bool = False
    untrusted: bool = True
    findings: tuple[str, ...] = ()
    begun: bool = True
    ended: bool = False
    dead_workers: tuple[str, ...] = ()
