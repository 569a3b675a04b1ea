"""Requests to a model and its replies, independent of any provider.

The provider adapters in ``linestop.models`` translate to and from these. A reply that does not fit these types is not
accepted: adapters raise ``ModelFailed`` instead of passing a part of one on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Literal, Protocol

import msgspec

from linestop.schemas.defaults import COUNT_MAX
from linestop.schemas.json_values import JsonObject
from linestop.schemas.run.call_outcome import CallOutcome, outcome_json

FailureClass = Literal[
    "availability", "rate_limit", "refusal", "malformed", "truncated", "cancelled", "permanent", "unknown"
]
"""Why a model request gave no usable answer. All but ``refusal`` and ``permanent`` are retried; only ``availability``
and ``rate_limit`` fall back to another model or queue."""

StopReason = Literal["end", "calls", "stop_sequence"]
"""Why the model ended, normalised. Truncation, refusal, a pause and a full window are failures, not stop reasons."""

TOKENS_MAX = 1_000_000_000
"""A report of more tokens than this is ignored; the request then counts at its reservation."""


ToolMode = Literal["native", "json_schema", "auto"]
"""How a model is offered tools: as tools, as one JSON object a turn, or automatically by what its server can do."""


NO_KEY = "none"
"""The placeholder that is sent instead of a key to a server for which no key was configured."""


class Usage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Tokens of one model request. ``fresh_in`` excludes both cache counts; ``reasoning`` is part of ``out``."""

    fresh_in: int = 0
    cache_read: int = 0
    cache_write: int = 0
    out: int = 0
    reasoning: int = 0

    @property
    def total(self) -> int:
        """All tokens, read, written and produced."""
        return self.fresh_in + self.cache_read + self.cache_write + self.out


class Price(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Price of a model in micro-dollars per million tokens (so $3.00 is 3_000_000)."""

    input: int
    output: int
    cache_read: int = 0
    cache_write: int = 0
    table: str = ""
    """The source of the price, e.g. ``genai-prices 0.2.3`` or ``agent file``."""

    def cost_micros(self, usage: Usage) -> int:
        """Cost of ``usage`` in micro-dollars, rounded up, so that a budget is never undercharged."""
        pico = (
            usage.fresh_in * self.input
            + usage.cache_read * (self.cache_read or self.input)
            + usage.cache_write * (self.cache_write or self.input)
            + usage.out * self.output
        )
        return -(-pico // 1_000_000)

    def cost_max_micros(self, input_tokens_max: int, output_tokens_max: int) -> int:
        """Return the most that a request of these sizes can cost: all input at the dearest input rate."""
        dearest = max(self.input, self.cache_read, self.cache_write)
        return -(-(input_tokens_max * dearest + output_tokens_max * self.output) // 1_000_000)

    def input_affordable(self, money_micros: int, output_tokens: int) -> int:
        """Return how many input tokens that money pays for, beside that many output tokens."""
        dearest = max(self.input, self.cache_read, self.cache_write)
        left = money_micros * 1_000_000 - output_tokens * self.output
        return left // dearest if dearest else (COUNT_MAX if left >= 0 else 0)

    def output_affordable(self, money_micros: int, input_tokens: int) -> int:
        """Return how many output tokens that money pays for, beside that many input tokens."""
        left = money_micros * 1_000_000 - input_tokens * max(self.input, self.cache_read, self.cache_write)
        return left // self.output if self.output else (COUNT_MAX if left >= 0 else 0)


class ToolSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One tool as it is shown to the model. ``parameters`` is a JSON Schema 2020-12 object."""

    name: str
    description: str
    parameters: JsonObject


class ToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A call that the model proposes. ``args`` is the JSON text exactly as the model wrote it, perhaps invalid."""

    id: str
    name: str
    args: str


FUNCTION_MODEL_PREFIX = "function/"
"""The prefix of a model's name that is a planner function: it reads and writes no tokens."""


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message of a prompt.

    ``role``: ``user`` and ``assistant`` carry ``text`` (an assistant also ``calls``); ``tool`` carries the
    result of ``call_id`` in ``text``, with ``is_error`` for a failed one and its ``outcome``, without which the model
    receives the text alone. ``blocks`` are the provider's own content blocks of an assistant message, re-sent
    unmodified if ``blocks_of`` is the provider of the next request, and ignored otherwise.
    """

    role: Literal["user", "assistant", "tool"]
    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    call_id: str = ""
    is_error: bool = False
    outcome: CallOutcome | None = None
    blocks: tuple[JsonObject, ...] = ()
    blocks_of: str = ""

    @property
    def result_text(self) -> str:
        """Return the text that a model receives as the result of the call, with every provider."""
        return self.text if self.outcome is None else outcome_json(self.outcome, self.text)


class ModelRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One model request.

    ``model`` is ``<provider>/<name>``; ``deadline_s`` bounds the whole request; after ``start_by`` its first byte
    must not be sent any more.
    """

    model: str
    system: str
    messages: tuple[Message, ...]
    tools: tuple[ToolSpec, ...] = ()
    output_tokens_max: int = 4_096
    deadline_s: float = 120.0
    params: JsonObject = {}
    output_schema: JsonObject | None = None
    start_by: datetime | None = None


class ModelReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A complete answer. ``blocks`` must be re-sent unmodified to the same provider next time."""

    text: str
    calls: tuple[ToolCall, ...]
    stop_reason: StopReason
    usage: Usage
    usage_reported: bool
    model: str
    request_id: str = ""
    blocks: tuple[JsonObject, ...] = ()


class ModelFailed(Exception):
    """Raised by an adapter when there is no usable answer.

    ``possibly_billed``: the provider may charge for the request although no usage figure came, so the whole
    reservation counts as spent. ``retry_after_s`` is the wait that the provider asked for, not capped. ``begun`` is
    false if no request was sent because ``start_by`` had passed.
    """

    def __init__(  # noqa: PLR0913 - the known facts of a failure
        self,
        kind: FailureClass,
        message: str,
        *,
        status: int | None = None,
        retry_after_s: float | None = None,
        usage: Usage | None = None,
        possibly_billed: bool = False,
        begun: bool = True,
    ) -> None:
        # A provider may send unpaired surrogates, which cannot be stored in an event.
        super().__init__(message.encode(errors="replace").decode())
        self.kind: FailureClass = kind
        self.status = status
        self.retry_after_s = retry_after_s
        self.usage = usage
        self.possibly_billed = possibly_billed
        self.begun = begun


OnDelta = Callable[[str], Awaitable[None]]
"""Called with each piece of text on arrival; lossy, for watchers only."""


class ModelClient(Protocol):
    """A client of one provider. It makes one attempt a request: retries are events, not loops."""

    async def complete(self, request: ModelRequest, on_delta: OnDelta | None = None) -> ModelReply:
        """Return the complete answer.

        Raises:
            ModelFailed: for every provider or transport fault, refusal, truncation or malformed answer.
        """
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...
