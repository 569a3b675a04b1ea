"""How a model makes tool calls, as far as a run's own log shows it.

A process finds out once whether a model behind a compatible server can call tools. After a restart another process
continues the run: what the log shows need not be found out again, and cannot be found out wrongly.
"""

from __future__ import annotations

import re
from typing import Final

from linestop.schemas.model_messages import ToolMode
from linestop.schemas.run.state import RunState

JSON_MODE_ID_PREFIX: Final = "step_"
"""The prefix of the id of a call that a model made as a JSON object."""

NATIVE_ID_PREFIX: Final = "made_"
"""The prefix of the id of a call whose server gave it no unique id."""

_OLDER_ID: Final = re.compile(r"call_[0-9a-f]{24}")
"""The prefix that older versions gave to calls of both kinds."""


def is_found_out(model: str, tool_mode: ToolMode) -> bool:
    """Whether the way in which this model makes calls is found out from its answers: ``auto`` on compatible servers."""
    return tool_mode == "auto" and model.startswith("openai/")


def observed_mode(run: RunState, model: str, base_url: str) -> ToolMode:
    """Return how this model, at this address, made its last calls in the run; ``auto`` if it made none."""
    for proposal in reversed(run.proposals):
        if proposal.calls and (proposal.model, proposal.base_url) == (model, base_url):
            ids = [call.call for call in proposal.calls]
            if all(name.startswith(JSON_MODE_ID_PREFIX) for name in ids):
                return "json_schema"
            return "auto" if all(_OLDER_ID.fullmatch(name) for name in ids) else "native"
    return "auto"
