"""What the fold knows of a run's prompts; ``prompt_size`` computes with it."""

from __future__ import annotations

import msgspec

from linestop.schemas.events import LimitHit, Proposed
from linestop.schemas.text.text_size import Size


class KnownPrompt(msgspec.Struct, frozen=True):
    """What a provider counted for a prompt, and the prompt's size as the fold counts it."""

    tokens: int
    size: Size


class PromptState(msgspec.Struct):
    """The fold's knowledge of the prompts: ``known`` by model and server, and the results that are left out.

    ``closing_limit`` is the limit that a closing run has reached, ``closing`` the answer of its closing turn.

    ``denser``: the largest ratio of a provider's count to the estimate.

    ``counts_unreliable``: a provider has counted more tokens than were possible, so its counts are not used as bounds.
    """

    known: dict[tuple[str, str], KnownPrompt] = {}
    denser: float = 1.0
    counts_unreliable: bool = False
    dropped_to: int = 0
    closing_limit: LimitHit | None = None
    closing: Proposed | None = None
