"""The playbook server: a scripted model behind real HTTP on loopback, in both providers' wire formats.

h11 handles the protocol, asyncio the sockets. A reply depends on its request alone. The only state, in a bounded
table, is how often a fault with ``times`` was used at each place of a conversation.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self

import h11
import msgspec

from linestop.errors import ConfigError
from linestop.models.playbook.answer import NoScriptedReply, choose_step
from linestop.models.playbook.conversation import Conversation, WireFormat, read_conversation
from linestop.models.playbook.reply import HttpReply, faulty_reply, plain_reply
from linestop.models.playbook.script import Playbook, Step
from linestop.models.playbook.wire import error_body

BODY_BYTES_MAX = 16 * 1024 * 1024
REQUESTS_RECORDED_MAX = 256
FAULT_COUNTS_MAX = 10_000
"""How many places of conversations are stored for faults with ``times``; the oldest is removed first."""

_READ_BYTES = 64 * 1024
_PATHS: dict[str, WireFormat] = {"/v1/messages": "anthropic", "/v1/chat/completions": "openai"}


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """One request as it came. ``step`` is the number of the step that answered, None if none did."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    model: str = ""
    turn: int = 0
    step: int | None = None
    fault: str = ""
    status: int = 200


class PlaybookServer:
    """A scripted model as an asynchronous context manager.

    Args:
        playbooks: The scripts, chosen by the request's model name.
        port: 0 takes a free one. The server listens on 127.0.0.1 only.

    Raises:
        ConfigError: when two playbooks have one name, or none is given.
    """

    def __init__(self, playbooks: Playbook | Iterable[Playbook], *, port: int = 0) -> None:
        books = (playbooks,) if isinstance(playbooks, Playbook) else tuple(playbooks)
        self._books = {book.name: book for book in books}
        if len(self._books) != len(books) or not books:
            raise ConfigError("A playbook server needs at least one playbook, each with a unique name.")
        self._port = port
        self._faults_met: OrderedDict[tuple[str, int, bytes], int] = OrderedDict()
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._arrivals = 0
        self._arrival = asyncio.Event()
        self.requests: deque[Received] = deque(maxlen=REQUESTS_RECORDED_MAX)
        """The last requests, oldest first."""

    @property
    def url(self) -> str:
        """The address of the server without a path: the ``base_url`` of ``playbook/<name>``."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def arrived(self, count: int) -> None:
        """Wait until ``count`` requests have been read: a signal for tests, instead of sleeps."""
        while self._arrivals < count:
            await self._arrival.wait()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await _Connection(self, reader, writer).serve()
        except (ConnectionError, h11.RemoteProtocolError, asyncio.CancelledError):
            # A client that hangs up or does not speak HTTP is ignored; a cancellation ends this server.
            pass
        finally:
            self._connections.discard(task)
            writer.close()

    def reply_to(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> HttpReply:
        """Return the reply to one request, and record the request."""
        received = Received(method=method, path=path, headers=dict(headers), body=body)
        wire = _PATHS.get(path.partition("?")[0])
        if wire is None or method != "POST":
            return self._refuse(received, "openai", 404, f"A playbook answers POST {' and '.join(_PATHS)} only.")
        try:
            conversation = read_conversation(wire, body)
        except (msgspec.MsgspecError, RecursionError) as error:
            return self._refuse(received, wire, 400, f"The body is not a request: {error}.")
        received = msgspec.structs.replace(received, model=conversation.model, turn=len(conversation.turns))
        book = self._books.get(conversation.model)
        if book is None:
            known = ", ".join(sorted(self._books))
            return self._refuse(received, wire, 404, f'No playbook is called "{conversation.model}"; there is {known}.')
        try:
            place = choose_step(book, conversation)
            received = msgspec.structs.replace(received, step=place)
            reply, fault = self._play(book, place, conversation)
        except NoScriptedReply as error:
            return self._refuse(received, wire, 400, str(error))
        self._record(msgspec.structs.replace(received, fault=fault, status=reply.status))
        return reply

    def _refuse(self, received: Received, wire: WireFormat, status: int, sentence: str) -> HttpReply:
        self._record(msgspec.structs.replace(received, status=status))
        return HttpReply(status=status, pieces=(error_body(wire, status, sentence),))

    def _record(self, received: Received) -> None:
        self.requests.append(received)
        self._arrivals += 1
        self._arrival.set()
        self._arrival = asyncio.Event()

    def _play(self, book: Playbook, place: int, conversation: Conversation) -> tuple[HttpReply, str]:
        step = book.steps[place]
        if step.fault is None or self._is_fault_used_up(step, (book.name, place, conversation.digest)):
            return plain_reply(book, step, conversation), ""
        return faulty_reply(book, step, conversation), str(step.fault.__struct_config__.tag)

    def _is_fault_used_up(self, step: Step, key: tuple[str, int, bytes]) -> bool:
        """Whether a fault has been used ``times`` times; if not, this use is counted."""
        if step.fault is None or step.fault.times is None:
            return False
        times_met = self._faults_met.get(key, 0)
        if times_met >= step.fault.times:
            return True
        self._faults_met[key] = times_met + 1
        self._faults_met.move_to_end(key)
        while len(self._faults_met) > FAULT_COUNTS_MAX:
            self._faults_met.popitem(last=False)
        return False


class _Connection:
    """The connection of one client: requests and replies in turn."""

    def __init__(self, server: PlaybookServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._server = server
        self._reader = reader
        self._writer = writer
        self._http = h11.Connection(h11.SERVER)

    async def serve(self) -> None:
        """Answer requests until either side closes."""
        while True:
            head = await self._next_event()
            if not isinstance(head, h11.Request):
                return
            body = await self._read_body()
            if body is None:
                return
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in head.headers}
            reply = self._server.reply_to(head.method.decode(), head.target.decode(), headers, body)
            if not await self._send(reply) or self._http.our_state is not h11.DONE:
                return
            if self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()

    async def _next_event(self) -> object:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            if self._http.they_are_waiting_for_100_continue:
                self._write(h11.InformationalResponse(status_code=100, headers=[]))
            self._http.receive_data(await self._reader.read(_READ_BYTES))

    async def _read_body(self) -> bytes | None:
        body = bytearray()
        while True:
            event = await self._next_event()
            if isinstance(event, h11.EndOfMessage):
                return bytes(body)
            if not isinstance(event, h11.Data):
                return None
            body += event.data
            if len(body) > BODY_BYTES_MAX:
                return None

    async def _send(self, reply: HttpReply) -> bool:
        """Send a reply; return whether the connection may be used again."""
        if reply.ending == "never":
            # Only the client can end this, by hanging up.
            await self._reader.read()
            return False
        if reply.delay_s:
            await asyncio.sleep(reply.delay_s)
        streamed = reply.media == "text/event-stream"
        size = sum(map(len, reply.pieces)) + (1 if reply.ending == "cut" else 0)
        framing = ("transfer-encoding", "chunked") if streamed else ("content-length", str(size))
        headers = [("content-type", reply.media), framing, *reply.headers]
        self._write(h11.Response(status_code=reply.status, headers=headers))
        if reply.pace_s:
            for piece in reply.pieces:
                self._write(h11.Data(data=piece))
                await self._writer.drain()
                await asyncio.sleep(reply.pace_s)
        else:
            self._write(h11.Data(data=b"".join(reply.pieces)))
        if reply.ending != "cut":
            self._write(h11.EndOfMessage())
        await self._writer.drain()
        return reply.ending == "end"

    def _write(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            self._writer.write(data)
