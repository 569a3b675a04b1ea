"""Tools for tests of linestop and of agents: a scripted model, a broker in memory, virtual time, replay.

Everything is imported on first use::

    from linestop.testing import PlaybookServer, parse_playbook, replay

    async with PlaybookServer(parse_playbook(script)) as server:
        ...  # base_url = server.url
    assert replay(log, agent) == []
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# Imported at once: otherwise importing the module of the same name would put the module here in its place.
from linestop.testing.replay import replay

if TYPE_CHECKING:
    from linestop.models.playbook import Playbook, PlaybookServer, load_playbook, parse_playbook
    from linestop.testing.cluster import Cluster
    from linestop.testing.memory import Faults, MemoryBroker
    from linestop.testing.replay import Difference
    from linestop.testing.virtual_time import Deadlock, VirtualLoop, run_virtual, virtual_now

_HOMES = {
    "Cluster": "linestop.testing.cluster",
    "Deadlock": "linestop.testing.virtual_time",
    "Difference": "linestop.testing.replay",
    "Faults": "linestop.testing.memory",
    "MemoryBroker": "linestop.testing.memory",
    "Playbook": "linestop.models.playbook",
    "PlaybookServer": "linestop.models.playbook",
    "VirtualLoop": "linestop.testing.virtual_time",
    "load_playbook": "linestop.models.playbook",
    "parse_playbook": "linestop.models.playbook",
    "run_virtual": "linestop.testing.virtual_time",
    "virtual_now": "linestop.testing.virtual_time",
}
"""The module that defines each public name."""

__all__ = [
    "Cluster",
    "Deadlock",
    "Difference",
    "Faults",
    "MemoryBroker",
    "Playbook",
    "PlaybookServer",
    "VirtualLoop",
    "load_playbook",
    "parse_playbook",
    "replay",
    "run_virtual",
    "virtual_now",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 - the value can have any type
    """Import a public name on its first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'linestop.testing' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return all names of the module, including public names that are not imported yet."""
    return sorted({*globals(), *__all__})
