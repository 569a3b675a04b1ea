"""The built-in tools, performed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from linestop.errors import Defect
from linestop.sandbox.tools.builtin import ASK_PERSON, WAIT_FOR_EVENT, WAIT_UNTIL
from linestop.sandbox.tools.perform_call import perform
from linestop.sandbox.tools.registry import load_registry
from linestop.schemas.argument_validation import check_arguments
from linestop.schemas.defaults import HTTP_TEXT_CHARS_MAX, WAIT_MAX_S
from linestop.schemas.tool_contracts import Contract, ToolResult

if TYPE_CHECKING:
    from tests.sandbox.conftest import MakeContext, Servers

    from linestop.sandbox.tools.context import Context

pytestmark = pytest.mark.anyio


async def call(ctx: Context, name: str, **args: object) -> ToolResult:
    """Check the arguments as the validator does and perform the tool."""
    tool = load_registry().tool(name)
    checked = check_arguments(msgspec.json.encode(args), tool.contract)
    assert checked.args is not None, checked.errors
    async with ctx.http:
        return await perform(tool, ctx, checked.args)


async def test_files_are_written_read_and_listed(make_context: MakeContext) -> None:
    """Within the run's own workspace."""
    ctx = make_context()
    written = await call(ctx, "files.write", path="notes/a.txt", text="hé")
    assert written == ToolResult(outcome="succeeded", value={"path": "notes/a.txt", "bytes": 3})
    assert (await call(ctx, "files.read", path="notes/a.txt")).value == "hé"
    listed = await call(ctx, "files.list", path="notes")
    assert listed.value == [{"name": "a.txt", "kind": "file", "size_bytes": 3}]
    assert len((await call(ctx, "files.list")).value) == 1


@pytest.mark.parametrize("path", ["../other", "/etc/passwd", "nope.txt", "binary"])
async def test_a_file_that_cannot_be_read_is_an_error_for_the_model(make_context: MakeContext, path: str) -> None:
    """The failure is ``invalid``, with a sentence that helps the model."""
    ctx = make_context()
    ctx.workspace.write("binary", b"\xff\xfe")
    result = await call(ctx, "files.read", path=path)
    assert result.outcome == "failed"
    assert result.error is not None
    assert result.error.type == "invalid"


async def test_a_page_is_fetched_as_untrusted_text(make_context: MakeContext, servers: Servers) -> None:
    """Labelled, capped, and recorded."""
    long = b"x" * (HTTP_TEXT_CHARS_MAX + 1)
    server = await servers.start(
        {
            "/": servers.response("grüße".encode("latin-1"), Content_Type="text/html; charset=iso-8859-1"),
            "/long": servers.response(long, Content_Type="application/json"),
            "/image": servers.response(b"\x89PNG", Content_Type="image/png"),
            "/missing": servers.response(b"no", "404 Not Found", Content_Type="text/plain"),
        }
    )
    result = await call(make_context((server.netloc,)), "http.get", url=server.url())
    assert result.value == {
        "url": server.url(),
        "status": 200,
        "content_type": "text/html",
        "text": "grüße",
        "truncated": False,
        "source": "untrusted",
    }
    assert [(egress.host, egress.status) for egress in result.egress] == [(server.netloc, 200)]
    cut = await call(make_context((server.netloc,)), "http.get", url=server.url("/long"))
    assert (len(cut.value["text"]), cut.value["truncated"]) == (HTTP_TEXT_CHARS_MAX, True)
    image = await call(make_context((server.netloc,)), "http.get", url=server.url("/image"))
    assert image.error is not None
    assert "not text" in image.error.message
    missing = await call(make_context((server.netloc,)), "http.get", url=server.url("/missing"))
    assert missing.value["status"] == 404


async def test_a_refused_page_fails_permanently_and_is_recorded(make_context: MakeContext) -> None:
    """The model learns that a retry is useless, and the log has the refused host."""
    result = await call(make_context(), "http.get", url="http://169.254.169.254/latest/")
    assert result.outcome == "failed"
    assert result.error is not None
    assert result.error.type == "permanent"
    assert [(egress.host, egress.status) for egress in result.egress] == [("169.254.169.254", 0)]


async def test_the_clock_returns_utc(make_context: MakeContext) -> None:
    """Both forms are the same moment."""
    value = (await call(make_context(), "clock.now")).value
    assert value["utc"].endswith("+00:00")
    assert abs(value["unix_s"] - 1.7e9) < 1e10


@pytest.mark.parametrize(
    ("contract", "raw", "good"),
    [
        (WAIT_UNTIL, '{"until":1}', True),
        (WAIT_UNTIL, f'{{"until":{WAIT_MAX_S}}}', True),
        (WAIT_UNTIL, '{"until":"2030-01-31T09:00:00+01:00"}', True),
        (WAIT_UNTIL, '{"until":0}', False),
        (WAIT_UNTIL, '{"until":1.5}', False),
        (WAIT_UNTIL, f'{{"until":{WAIT_MAX_S + 1}}}', False),
        (WAIT_UNTIL, '{"until":""}', False),
        (WAIT_UNTIL, '{"until":null}', False),
        (WAIT_UNTIL, "{}", False),
        (WAIT_UNTIL, '{"until":1,"seconds":1}', False),
        (WAIT_FOR_EVENT, '{"name":"payment.received","timeout_s":3600}', True),
        (WAIT_FOR_EVENT, '{"name":"payment received","timeout_s":3600}', False),
        (WAIT_FOR_EVENT, '{"name":"x"}', False),
        (ASK_PERSON, '{"question":"Which one?","options":["a","b"]}', True),
        (ASK_PERSON, '{"question":"Why?"}', True),
        (ASK_PERSON, '{"question":""}', False),
        (ASK_PERSON, '{"question":"x","options":["a","a"]}', False),
    ],
)
def test_the_waits_accept_what_their_schemas_describe(contract: Contract, raw: str, good: bool) -> None:
    """Their schemas hold the bounds, because no function checks them."""
    assert (check_arguments(raw, contract).args is not None) is good


def test_waits_are_reads_of_kind_wait() -> None:
    """They cost nothing and change nothing."""
    for contract in (WAIT_UNTIL, WAIT_FOR_EVENT, ASK_PERSON):
        assert (contract.kind, contract.tier, contract.safe_to_repeat) == ("wait", "read", True)
    assert Defect.code == "defect"
