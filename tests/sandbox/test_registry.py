"""Loading tools, and the rules for their contracts."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from linestop.errors import ConfigError, NotFound
from linestop.sandbox.tools.contract_lint import lint_contracts
from linestop.sandbox.tools.registry import Registry, load_registry
from linestop.schemas.tool_contracts import Contract

SUPPORT = '''
"""Support tools."""
from __future__ import annotations
from linestop.sandbox.tools.decorator import Context, tool
import msgspec

class Order(msgspec.Struct):
    id: str

@tool(name="orders.lookup", tier="read", owner="support")
async def lookup(ctx: Context, order: Order) -> Order:
    """Look an order up.

    Args:
        order: Which one.
    """
    return order

alias = lookup
'''


def write(tmp_path: Path, name: str, text: str) -> str:
    """Write a module and return its name."""
    (tmp_path / name).write_text(text)
    return name


def test_built_in_tools_are_there_and_clean() -> None:
    """Every one of them passes the rules."""
    registry = load_registry()
    names = [contract.name for contract in registry.contracts()]
    assert names == [
        "ask.person",
        "clock.now",
        "files.list",
        "files.read",
        "files.write",
        "http.get",
        "wait.for_event",
        "wait.until",
    ]
    assert lint_contracts(registry.contracts(), without_tier=registry.without_tier()) == []
    assert len(load_registry(builtins=False)) == 0


def test_tools_come_from_files_and_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path is relative to the configuration, and the types in the file resolve."""
    write(tmp_path, "support.py", SUPPORT)
    write(tmp_path, "linestop_test_support_module.py", SUPPORT.replace("orders.lookup", "orders.find"))
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    sources = ["support.py", "python:linestop_test_support_module"]
    registry = load_registry(sources, base=tmp_path, builtins=False)
    assert [tool.name for tool in registry.tools()] == ["orders.find", "orders.lookup"]
    assert registry.source("orders.lookup") == "support.py"
    assert registry.tool("orders.lookup").contract == registry.contract("orders.lookup")
    again = load_registry(["support.py"], base=tmp_path, builtins=False)
    assert again.tool("orders.lookup") is registry.tool("orders.lookup")


def test_an_unknown_tool_is_reported() -> None:
    """A wait has a contract but no function."""
    registry = load_registry()
    assert registry.contract("wait.until").kind == "wait"
    for lookup in (lambda: registry.tool("nope"), lambda: registry.contract("nope")):
        with pytest.raises(NotFound, match="no tool nope"):
            lookup()
    with pytest.raises(NotFound, match=r"no tool wait\.until"):
        registry.tool("wait.until")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("x = 1", "declares no tool"),
        ("import nothing_of_that_name", r"broken\d+\.py cannot be loaded \(ModuleNotFoundError"),
        ("def (", "cannot be loaded .SyntaxError"),
        ("import json\n\njson.loads('{')", r"broken\d+\.py cannot be loaded \(JSONDecodeError: .*; line 3\)"),
        (SUPPORT.replace("tier=", "tear="), r"tools: .*broken\d+\.py: .*no option tear"),
        (SUPPORT.replace("orders.lookup", "files.read"), "files.read is declared in linestop and again in"),
        (
            SUPPORT
            + SUPPORT.replace("from __future__ import annotations", "")
            .replace("def lookup", "def two")
            .replace("alias", "beta"),
            "twice",
        ),
    ],
    ids=range(7),
)
def test_a_bad_source_is_one_sentence(tmp_path: Path, text: str, sentence: str, request: pytest.FixtureRequest) -> None:
    """The sentence names the source and the error."""
    name = write(tmp_path, f"broken{request.node.callspec.indices['text']}.py", text)
    with pytest.raises(ConfigError, match=sentence) as caught:
        load_registry([name], base=tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["nowhere.py", "python:nowhere.at_all", "support", "python:", "http://x/tools.py"])
def test_a_missing_source_is_reported(tmp_path: Path, source: str) -> None:
    """The sentence has the error and the correct form."""
    with pytest.raises(ConfigError, match="tools:"):
        load_registry([source], base=tmp_path)


def test_a_file_that_does_not_exist_is_called_so(tmp_path: Path) -> None:
    """It is not called a file of another kind."""
    with pytest.raises(ConfigError, match=r"^tools: there is no file .*nowhere\.py$"):
        load_registry(["nowhere.py"], base=tmp_path)


def test_the_line_of_a_module_that_cannot_be_imported_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its file, which the name of the module does not tell."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    write(tmp_path, "divides_by_zero.py", "x = 0\n1 / x\n")
    with pytest.raises(ConfigError, match=r"ZeroDivisionError: .*; .*divides_by_zero\.py, line 2\)$"):
        load_registry(["python:divides_by_zero"], base=tmp_path)


def test_a_contract_with_an_unusable_schema_is_refused() -> None:
    """A remote reference is found when tools are loaded, not when a run needs the tool."""
    bad = Contract(name="x.y", description="A tool.", parameters={"$ref": "http://127.0.0.1:9/s"})
    with pytest.raises(ConfigError, match=r"tool x\.y from mcp: its schema cannot be used"):
        Registry().add_contract(bad, "mcp")


def contract(name: str = "orders.cancel", *, properties: dict[str, object] | None = None, **fields: object) -> Contract:
    """A contract without a fault, except for the given options."""
    perfect: dict[str, object] = {
        "name": name,
        "description": "Cancel an order for good.",
        "parameters": {
            "type": "object",
            "properties": properties if properties is not None else {"id": {"type": "string", "description": "Which."}},
            "additionalProperties": False,
        },
        "tier": "irreversible",
        "owner": "support",
        "idempotent": True,
        "calls_max": 1,
    }
    return Contract(**{**perfect, **fields})  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


class Line(msgspec.Struct):
    """A part of a result."""

    total: int


class Order(msgspec.Struct):
    """A result with parts of every kind."""

    id: str
    order: Line
    lines: list[Line]
    by: dict[str, Line]
    last: Line | None = None


RETURNS = msgspec.json.schema(Order)


@pytest.mark.parametrize(
    ("faulty", "rules"),
    [
        (contract(), []),
        (contract(idempotent=False), ["error fate", "warning raising"]),
        (contract(idempotent=False, raises_before_effect=True), ["error fate"]),
        (contract(raises_before_effect=True), ["warning raising"]),
        (contract(idempotent=False, probe=True), []),
        (contract(idempotent=False, tier="destructive"), ["error fate", "warning raising"]),
        (contract(idempotent=False, tier="reversible"), ["warning reversible_fate", "warning raising"]),
        (contract(repeatable=True, calls_max=2), ["warning repeatable"]),
        (
            contract(repeatable=True, calls_max=2, idempotent=False, probe=True),
            ["warning repeatable", "error shared_key"],
        ),
        (contract(repeatable=True, calls_max=2, idempotent=False, probe=True, tier="read"), ["warning idle_probe"]),
        (contract(probe=True), ["warning idle_probe"]),
        (contract(repeatable=True, calls_max=1, tier="reversible"), ["error repeated_once"]),
        (contract(egress=("id", "body")), ["error egress_names"]),
        (contract(trusted=("id",)), []),
        *(
            (contract(trusted=(path,), returns=RETURNS), [])
            for path in ("id", "order.total", "last.total", "by.x.total")
        ),
        *(
            (contract(trusted=("id", path), returns=RETURNS), ["error trusted"])
            for path in ("total", "id.x", "order.sum", "lines.total", "order.total.x")
        ),
        (contract(trusted=("any.thing",), returns={"type": "object"}), []),
        (contract(trusted=("thing",), returns={"type": "array", "items": {"type": "object"}}), ["error trusted"]),
        (
            contract(trusted=("a.b.c",), returns={"$ref": "#/$defs/R", "$defs": {"R": {"$ref": "#/$defs/R"}}}),
            ["error trusted"],
        ),
        (contract(owner=""), ["warning owner"]),
        (contract(timeout_s=900), ["warning timeout"]),
        (contract(kind="thread", idempotent=False, probe=True), ["warning thread"]),
        (contract(kind="thread"), []),
        (contract(description="Cancel"), ["error description"]),
        (contract(description="x" * 2_001), ["error description"]),
        (contract(properties={"id": {"type": "string"}}), ["warning arguments"]),
        (contract("mail.send"), ["warning egress"]),
        (contract("mail.send", egress=("id",)), []),
        (contract(scopes=("mail:send",)), ["warning egress"]),
        (contract(calls_max=0), ["warning calls_max"]),
        (contract(parameters={"type": "object"}), ["warning loose_arguments"]),
        (contract(parameters={"type": "zzz", "additionalProperties": False}), ["error schema"]),
    ],
)
def test_lint_finds_exactly_the_fault(faulty: Contract, rules: list[str]) -> None:
    """Each rule fires on its own fault and on nothing else."""
    found = [f"{finding.level} {finding.rule}" for finding in lint_contracts([faulty])]
    assert found == rules
    assert all(finding.message for finding in lint_contracts([faulty]))


def test_lint_reports_a_tool_without_a_tier() -> None:
    """The contract has "destructive" either way; the registry knows that no tier was declared."""
    (finding,) = lint_contracts([contract()], without_tier={"orders.cancel"})
    assert (finding.level, finding.rule, finding.tool) == ("error", "tier", "orders.cancel")
