"""The shop of the demo: a small HTTP service on loopback that counts the requests and effects it sees.

It stands for an outside service and knows nothing of linestop. Three of its properties make the stories: it fails
the first request for an order, it answers the first request for a refund only when the client is gone, and
it is slow to send letters.
"""

from __future__ import annotations

import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Final, Self

import msgspec

from linestop.schemas.json_values import JsonObject

BODY_BYTES_MAX: Final = 64 * 1024
REPLY_DELAY_MAX_S: Final = 20.0
"""The longest delay of a reply: longer than any story, so that the shop never decides how a story ends."""

ORDER: Final = {"order": "1042", "item": "teapot", "total_cents": 4250, "state": "delivered broken"}
PARCEL: Final = {"parcel": "77", "state": "somewhere between Lyon and Lille"}
SLOW_BATCH_NUMBER: Final = 3
ShopReply = tuple[int, JsonObject]


class Shop:
    """The service. ``effects`` counts effects by idempotency key, ``requests`` counts requests by kind."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.effects: Counter[str] = Counter()
        self.letters: list[int] = []
        self.refund_arrived = threading.Event()
        self.letter_arrived = threading.Event()
        self._released = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.shop = self

    @property
    def address(self) -> str:
        """Host and port of the service."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    @property
    def refunds(self) -> int:
        """How many refunds were paid."""
        return sum(self.effects.values())

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="shop", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        self._server.shutdown()
        self._server.server_close()

    def order(self) -> ShopReply:
        """Return the order; the first request fails with 503."""
        if self._count("orders") == 1:
            return 503, {"error": "The order system restarts; try again in a moment."}
        return 200, ORDER

    def parcel(self) -> ShopReply:
        """Return where the parcel is: always the same place."""
        self._count("parcels")
        return 200, PARCEL

    def refund(self, key: str) -> ShopReply:
        """Pay once for each key, and delay the first reply: its client is killed before it can read one."""
        with self._lock:
            first = self.effects[key] == 0
            if first:
                self.effects[key] += 1
        self._count("refunds")
        self.refund_arrived.set()
        if first:
            self._released.wait(REPLY_DELAY_MAX_S)
        return 200, {"refund": f"R-{key[:8]}", "paid_cents": ORDER["total_cents"], "new": first}

    def letter(self, batch: int) -> ShopReply:
        """Send a batch of letters; the third one takes long."""
        with self._lock:
            self.letters.append(batch)
        self._count("letters")
        if batch == SLOW_BATCH_NUMBER:
            self.letter_arrived.set()
            self._released.wait(REPLY_DELAY_MAX_S)
        return 200, {"batch": batch, "letters": 200}

    def _count(self, what: str) -> int:
        with self._lock:
            self.requests[what] += 1
            return self.requests[what]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    shop: Shop

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: the demo kills clients in the middle of a request on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        """Answer a GET request."""
        routes = {"/orders/1042": self.server.shop.order, "/parcels/77": self.server.shop.parcel}
        make_reply = routes.get(self.path)
        self._send(make_reply() if make_reply else (404, {"error": "There is no such thing."}))

    def do_POST(self) -> None:
        """Perform a POST request."""
        length = min(int(self.headers.get("Content-Length", "0")), BODY_BYTES_MAX)
        body = msgspec.json.decode(self.rfile.read(length), type=JsonObject)
        if self.path == "/refunds":
            self._send(self.server.shop.refund(self.headers.get("Idempotency-Key", "")))
        elif self.path == "/letters":
            self._send(self.server.shop.letter(int(body["batch"])))
        else:
            self._send((404, {"error": "There is no such thing."}))

    def _send(self, reply: ShopReply) -> None:
        status, body = reply
        data = msgspec.json.encode(body)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the overridden argument
        """Write no log: the terminal shows the log of the run."""
