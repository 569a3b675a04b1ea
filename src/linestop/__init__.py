"""linestop: run AI agents on an event log that anyone can stop and everyone can check.

The public API, with ``linestop.testing``: the names in the ``__init__.pyi`` of these two; every other module is private
and may change. Everything is imported on first use, so that ``import linestop`` costs nothing::

    from linestop import Client

    async with Client.connect(".linestop") as client:
        submitted = await client.submit("support", "Refund order A-17.", key="ticket-4711")
        async for token in client.stream(submitted.run):
            print(token, end="")
        outcome = await client.outcome(submitted.run)
"""

from __future__ import annotations

from linestop.public_names import import_on_first_use

__getattr__, __dir__, __all__ = import_on_first_use(__name__, __file__)
