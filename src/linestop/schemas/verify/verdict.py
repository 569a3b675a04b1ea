"""The verdict on a log, with one sentence for each problem."""

from __future__ import annotations

from typing import Literal

import msgspec

Level = Literal["broken", "ignored", "void", "note"]
"""How bad a problem is.

``broken``: a rule of the log or a promise does not hold. ``ignored``: an event of the chain that every reader ignores,
and that an honest role may have appended. ``void``: a message that is not part of the chain. ``note``: a fact that
could not be checked.
"""

Rule = Literal[
    "chain",
    "time",
    "legal",
    "opened",
    "stop",
    "once",
    "budget",
    "limit",
    "approval",
    "result",
    "answer",
    "seal",
    "checkpoint",
]
"""Which rule a problem is about; ``stop``, ``once``, ``budget`` and ``approval`` are the promises P1, P3, P4, P5."""

Status = Literal["authentic", "consistent", "broken"]


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to know about event ``n``, in one sentence."""

    n: int
    rule: Rule
    sentence: str
    level: Level = "broken"


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The facts that the log proves.

    ``n`` is the event up to which ``status`` holds: the last one vouched for by a signed checkpoint
    (``authentic``), the last one of the chain (``consistent``), or the first broken one (``broken``).
    ``authentic_n`` is 0 without a valid checkpoint; a broken log may still be authentic before the break.
    ``sealed`` says whether the log has its end: a run that is still running has none, nor has a log that was cut off.
    """

    tenant: str
    run: str
    status: Status
    n: int
    events: int
    authentic_n: int = 0
    sealed: bool = False
    head_sha256: str = ""
    problems: tuple[Problem, ...] = ()

    @property
    def broken(self) -> bool:
        """Whether any problem breaks the log."""
        return self.status == "broken"

    @property
    def sentence(self) -> str:
        """The verdict in words: ``authentic up to 12``, ``consistent``, ``broken at 7``."""
        match self.status:
            case "authentic":
                return f"authentic up to {self.n}"
            case "consistent":
                return "consistent"
            case "broken":
                return f"broken at {self.n}"
