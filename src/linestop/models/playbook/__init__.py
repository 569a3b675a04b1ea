"""The playbook: a scripted model that is a real HTTP server on loopback.

It speaks the wire formats of Anthropic's Messages and OpenAI's Chat Completions, with and without streaming, so that
a demo or a test takes the same path through SDK and adapter as production. ``docs/models.md`` describes the format
of a script::

    async with PlaybookServer(load_playbook(Path("support.toml"))) as server:
        client = open_model("playbook/support", base_url=server.url)
"""

from __future__ import annotations

from linestop.models.playbook.script import Playbook, load_playbook, parse_playbook
from linestop.models.playbook.server import PlaybookServer, Received

__all__ = ["Playbook", "PlaybookServer", "Received", "load_playbook", "parse_playbook"]
