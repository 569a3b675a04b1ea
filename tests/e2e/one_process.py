"""Every role in the process of the test, on a real broker: an error of a role fails the test."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
import msgspec
from nats.aio.msg import Msg
from tests.e2e.scene import OperatorView, operator_view

from linestop.bus.broker_backend import JetStreamBackend
from linestop.bus.connection import connect
from linestop.bus.jetstream.reads import Reader
from linestop.bus.server.embedded import EmbeddedServer
from linestop.bus.streams import stream_names
from linestop.bus.streams.create_streams import set_up
from linestop.models.caller import Requester
from linestop.models.playbook import PlaybookServer
from linestop.models.playbook.script import parse_playbook
from linestop.runtime.actor_process import ActorProcess
from linestop.runtime.process_settings import ProcessSettings
from linestop.runtime.role_factory import make_role
from linestop.sandbox.tools.registry import Registry
from linestop.sandbox.tools.tool_runner import RegistryRunner
from linestop.schemas.messages import REPLY_HEADER, Reply
from linestop.schemas.subjects import ACTORS

REPLY_WITHIN_S = 10.0
_numbers = itertools.count(1)


class OneProcess:
    """A running actor process, and an operator's view of its runs."""

    def __init__(self, server: EmbeddedServer, scene: OperatorView, host: ActorProcess, model_url: str) -> None:
        self.server = server
        self.scene = scene
        self.host = host
        self.model_url = model_url

    async def publish_and_wait(self, subject: str, payload: bytes, **headers: str) -> Reply:
        """Publish a task or a control message and return the reply."""
        inbox = stream_names.reply_inbox("operator", f"t{next(_numbers)}")
        send, receive = anyio.create_memory_object_stream[Msg](16)
        wire = self.scene.bus.wire
        subscription = await wire.subscribe(inbox, send.send_nowait)
        try:
            await self.scene.publish(subject, payload, **{REPLY_HEADER: inbox}, **headers)
            with anyio.fail_after(REPLY_WITHIN_S):
                return msgspec.json.decode((await receive.receive()).data, type=Reply)
        finally:
            await wire.unsubscribe(subscription)
            send.close()
            receive.close()

    async def dead_letters(self) -> list[dict[str, object]]:
        """All dead letters."""
        messages = await Reader(self.scene.bus.wire, stream_names.DEAD).last_of_each("dead.>")
        return [msgspec.json.decode(message.payload) for message in messages or []]


@asynccontextmanager
async def one_process(directory: Path, playbooks: tuple[str, ...], registry: Registry) -> AsyncGenerator[OneProcess]:
    """A broker, a scripted model and one process with every role."""
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(EmbeddedServer(directory))
        model = await stack.enter_async_context(PlaybookServer([parse_playbook(playbook) for playbook in playbooks]))
        async with await connect(server.credential("bootstrap"), name="set-up") as connection:
            (await set_up(connection)).require_no_differences()
        backend = await JetStreamBackend.open({role: server.credential(role) for role in ACTORS}, name="one")
        stack.push_async_callback(backend.aclose)
        runner = RegistryRunner(registry, directory / "workspaces")
        requester = Requester()
        stack.push_async_callback(requester.aclose)
        roles = [make_role(role, requester=requester, runner=runner) for role in ACTORS]
        host = ActorProcess(backend, roles, ProcessSettings(worker="one#1", sweep_every_s=0.5))
        scene = await stack.enter_async_context(operator_view(server.credential("operator")))
        await stack.enter_async_context(host.running())
        yield OneProcess(server, scene, host, model.url)
