"""The client for programs: submit, watch, decide, stop. The command line is built on it."""

from __future__ import annotations

from linestop.client.blocking_client import SyncClient
from linestop.client.client import Client, TaskOptions
from linestop.client.outcome import Outcome
from linestop.client.outcome_listener import Alert, Listener
from linestop.client.result_types import DeadLetter, OpenQuestion, Receipt, RunLine, Submitted
from linestop.client.token_stream import Token

__all__ = [
    "Alert",
    "Client",
    "DeadLetter",
    "Listener",
    "OpenQuestion",
    "Outcome",
    "Receipt",
    "RunLine",
    "Submitted",
    "SyncClient",
    "TaskOptions",
    "Token",
]
