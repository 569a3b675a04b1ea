"""The internals of nats-py that the hot path uses: a test fails by name when a new version changes them."""

# This module checks the client's internals on purpose.
# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownArgumentType=false

from __future__ import annotations

import inspect
from typing import Any

import pytest
from nats.aio import client as client_module
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from tests.bus_fixtures import BusFixture, ServerBusFixture

from linestop.bus.jetstream.reads import Reader
from linestop.bus.nats_client import SigningClient
from linestop.bus.wire import header_block
from linestop.errors import InputError, TooLarge, Unreachable

pytestmark = pytest.mark.anyio


def test_the_client_has_the_buffer_we_write_to() -> None:
    """``_pending`` is a list of bytes with its size beside it, and ``_transport`` is None until connected."""
    client: Any = Client()  # its internals have no types
    assert client._pending == []
    assert client._pending_data_size == 0
    assert client._transport is None


def test_the_clients_flusher_writes_like_ours() -> None:
    """It hands all pending bytes to the transport and drops them: whichever flushes first, the order stays."""
    source = inspect.getsource(client_module.Client._flusher)
    assert "if self._pending_data_size > 0:" in source
    assert "self._transport.writelines(self._pending[:])" in source
    assert "self._pending = []" in source


def test_a_subscription_with_a_future_hands_messages_over_at_once() -> None:
    """The read loop calls ``cancelled()`` and ``set_result`` for each message, and keeps the object."""
    source = inspect.getsource(client_module.Client._process_msg)
    assert "if sub._future.cancelled():" in source
    assert "sub._future.set_result(msg)" in source
    assert "self._future = future" in inspect.getsource(Subscription.__init__)
    assert "_future = None" not in source, "the client forgets the sink after one message"


@pytest.mark.parametrize(
    "raw",
    [
        b"Nats-Subject: runs.t.r.planner.started.1\r\nNats-Sequence: 17\r\nce-type:x\r\nempty:\r\n\r\n",
        b"a: b: c\r\na:\td \r\nno colon\r\nname: \xc3\xa4\xff\r\n",
        b"\r\n",
    ],
)
def test_our_reader_of_headers_reads_what_the_clients_reads(raw: bytes) -> None:
    """The client calls it by this name, for the lines after the first; ours takes a fifth of the time."""
    assert SigningClient._parse_header_lines(raw) == Client._parse_header_lines(raw)
    assert "self._parse_header_lines(raw_headers)" in inspect.getsource(Client._process_headers)


async def test_a_request_reaches_the_server_and_its_reply_reaches_us(bus: BusFixture) -> None:
    """Everything together, on a real connection: a request, its reply, and a request without a reply."""
    if not isinstance(bus, ServerBusFixture):
        pytest.skip("a broker in memory has no wire")
    wire = (await bus.open("operator")).wire
    assert (await Reader(wire, "RUNS").info()).error is None
    with pytest.raises(TooLarge, match="blobs"):
        await wire.request("tasks.t.a", bytes(2 * 1024 * 1024))
    with pytest.raises(Unreachable, match=r"has no subscriber|did not answer"):
        await wire.request("wake.planner.t.nobody", timeout_s=0.2)


def test_a_header_with_a_line_break_is_refused() -> None:
    """It would be another header on the wire."""
    assert header_block({"a": "b"}) == b"NATS/1.0\r\na: b\r\n\r\n"
    for bad in ({"a": "b\r\nc: d"}, {"a\n": "b"}, {"a": "\r"}):
        with pytest.raises(InputError, match="line break"):
            header_block(bad)
