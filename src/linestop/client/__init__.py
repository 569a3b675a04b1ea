"""Talking to linestop from a program: submit, watch, decide, stop. What the command line is made of."""

from __future__ import annotations

from linestop.client.client import Client, TaskOptions
from linestop.client.sync import SyncClient
from linestop.client.views import Letter, OpenQuestion, Receipt, RunLine, Submitted

__all__ = [
    "Client",
    "Letter",
    "OpenQuestion",
    "Receipt",
    "RunLine",
    "Submitted",
    "SyncClient",
    "TaskOptions",
]
