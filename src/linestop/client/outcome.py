"""The outcome of a run for a program: the stored outcome, with the answer as a value of the caller's type."""

from __future__ import annotations

from functools import cached_property
from typing import Any, Final, Generic, TypeVar

import msgspec

from linestop.bus import run_outcomes_and_alerts
from linestop.errors import InputError, RunFailed
from linestop.schemas.events import BlobRef

T = TypeVar("T")
REASON_CHARS_MAX: Final = 300


class Outcome(run_outcomes_and_alerts.Outcome, Generic[T], frozen=True, kw_only=True, omit_defaults=True, dict=True):
    """The outcome of a run.

    ``status`` is how the run ended, ``text`` the answer as the model wrote it, ``answer`` the same as a value.
    ``asked_at`` is when the broker stored the task, ``opened_at`` and ``ended_at`` are the run's; ``model`` is the one
    that answered. These four are empty in outcomes of older versions. ``position`` is the outcome's position in
    the stream: a later ``client.outcomes(after=position)`` begins after it.
    """

    position: int = 0

    @cached_property
    def answer(self) -> T | None:
        """The answer as the type given with ``output``; None if there is no answer.

        Without ``output`` it is the parsed JSON if the agent has an output schema, else the text.

        Raises:
            InputError: the answer cannot be read as ``output``.
        """
        if self.text is None or isinstance(self.text, BlobRef):
            return None
        output = vars(self).get("output")
        if output is None and self.answer_is == "json":
            output = Any
        if output is None or output is str:
            text: Any = self.text
            return text  # type: ignore[no-any-return] # `output` is str
        return read_answer(self.text, output, self.run)  # type: ignore[no-any-return] # as `output` says

    def require(self) -> T:
        """The answer of a completed run.

        Raises:
            RunFailed: the run ended without an answer; with its status and its reason.
            InputError: as ``answer``.
        """
        if self.answer is None:
            why = f": {self.why}" if self.why else ""
            raise RunFailed(f"Run '{self.run}' gave no answer; it is {self.status}{why}")
        return self.answer


def outcome_as(stored: bytes, output: Any = None, *, position: int = 0) -> Outcome[Any]:  # noqa: ANN401 - any type
    """Read a stored outcome whose ``answer`` is of the type ``output``."""
    outcome = msgspec.structs.replace(msgspec.json.decode(stored, type=Outcome[Any]), position=position)
    # Not a field: `output` belongs to this object only, not to the stored outcome.
    vars(outcome)["output"] = output
    return outcome


def with_text(outcome: Outcome[T], text: str) -> Outcome[T]:
    """The outcome with the text of a long answer, which was fetched from its blob."""
    fetched = msgspec.structs.replace(outcome, text=text)
    vars(fetched)["output"] = vars(outcome).get("output")
    return fetched


def read_answer(text: str, output: Any, run: str) -> Any:  # noqa: ANN401 - any type, and a value of it
    """The answer as a value of ``output``: a type msgspec reads (dataclass, TypedDict, Struct …), or a pydantic model.

    Raises:
        InputError: the text cannot be read as ``output``.
    """
    # Every pydantic model and dataclass has this attribute; msgspec would read them without their validators.
    validator: Any = getattr(output, "__pydantic_validator__", None)
    try:
        if validator is not None:
            return validator.validate_json(text)
        return msgspec.json.decode(text, type=output)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        name = getattr(output, "__name__", str(output))
        reason = " ".join(str(error).split())[:REASON_CHARS_MAX]
        raise InputError(
            f"The answer of run '{run}' cannot be read as {name} ({reason}): give the type that the agent's "
            "output_schema describes, or read `text`."
        ) from None
