"""Tools for tests of linestop and of agents: a scripted model, a broker in memory, virtual time, replay.

Everything is imported on first use::

    from linestop.testing import PlaybookServer, parse_playbook, replay

    async with PlaybookServer(parse_playbook(script)) as server:
        ...  # base_url = server.url
    assert replay(log, agent) == []
"""

from __future__ import annotations

from linestop.public_names import import_on_first_use

# Imported at once: otherwise importing the module of the same name would put the module here in its place.
from linestop.testing.replay import replay as replay

__getattr__, __dir__, __all__ = import_on_first_use(__name__, __file__)
