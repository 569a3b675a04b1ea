"""Events of the planner."""

from __future__ import annotations

from typing import Literal

import msgspec

from linestop.schemas.events.envelope import Event, Moment, Text
from linestop.schemas.events.stopped import LimitHit
from linestop.schemas.json_values import JsonObject
from linestop.schemas.model_messages import FailureClass, Usage


class ModelStarted(Event, frozen=True, kw_only=True):
    """A model request begins: its reservation and its deadlines. ``attempt`` counts within the turn.

    ``base_url`` is the server of the request, empty for the provider's own. ``prompt_sha256`` covers the prompt,
    ``params`` and the answer's schema. The prompt leaves out the results of calls that ended up to event
    ``dropped_to``. ``close`` is the run's last turn: without tools, it sums up the results; ``limit`` is the limit that
    the run has reached. ``charges_tokens``: without reported usage the answer counts at its reserved tokens too.
    ``dead_workers`` were known to be dead, so that their open starts counted as past their end.
    """

    turn: int
    attempt: int
    model: str
    worker: str
    start_by: Moment
    done_by: Moment
    purpose: Literal["turn", "compact", "close"] = "turn"
    prompt_sha256: str = ""
    input_tokens_max: int = 0
    output_tokens_max: int = 0
    cost_max_micros: int = 0
    fallback_of: str = ""
    base_url: str = ""
    params: JsonObject = {}  # noqa: RUF012 - msgspec copies it
    dropped_to: int = 0
    limit: LimitHit | None = None
    charges_tokens: bool = False
    dead_workers: tuple[str, ...] = ()


class ProposedCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A call that the model proposes, with its arguments exactly as the model wrote them."""

    call: str
    tool: str
    args: Text


class Proposed(Event, frozen=True, kw_only=True):
    """A complete answer of the model: calls to make, or (``final``) the answer.

    ``reason`` is the model's text beside its calls, on one line and shortened, for the person who is asked about them.
    """

    turn: int
    attempt: int
    text: Text = ""
    calls: tuple[ProposedCall, ...] = ()
    final: bool = False
    reason: str = ""
    stop_reason: str = ""
    blocks: Text = ""
    blocks_of: str = ""
    usage: Usage = Usage()
    usage_source: Literal["reported", "reserved"] = "reported"
    cost_micros: int = 0
    model: str = ""
    request_id: str = ""
    duration_s: float = 0.0


class ModelFailedEvent(Event, frozen=True, kw_only=True):
    """An attempt without a usable answer. ``charged_micros`` is what the run pays for it.

    ``begun`` is false if no request was sent: the worker was too busy to begin by ``start_by``. Such an attempt costs
    no try; without the field, in older logs, an attempt counts as begun.
    """

    turn: int
    attempt: int
    kind: FailureClass
    message: str
    status: int | None = None
    retry_after_s: float | None = None
    usage: Usage | None = None
    possibly_billed: bool = False
    charged_micros: int = 0
    begun: bool = True
    duration_s: float = 0.0
    dead_workers: tuple[str, ...] = ()


class ExactValue(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A value that a summary must not lose, and the event it comes from."""

    value: str
    n: int


class Compacted(Event, frozen=True, kw_only=True):
    """The conversation up to event ``covers_to`` is replaced by ``summary`` in later prompts."""

    turn: int
    attempt: int
    covers_from: int
    covers_to: int
    summary: str
    values: tuple[ExactValue, ...] = ()
    usage: Usage = Usage()
    cost_micros: int = 0
    duration_s: float = 0.0
