"""The declaration of tools."""

from __future__ import annotations

import datetime as dt
import enum
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import msgspec
import pytest

from linestop.errors import ConfigError
from linestop.sandbox.tools.decorator import Context, Tool, ToolFailed, tool
from linestop.sandbox.tools.function_signature import read_docstring
from linestop.schemas.argument_validation import check_arguments
from linestop.schemas.defaults import LIMITS_MAX

if TYPE_CHECKING:
    from tests.sandbox.conftest import MakeContext

pytestmark = pytest.mark.anyio


class Colour(enum.Enum):
    """A choice."""

    RED = "red"
    BLUE = "blue"


class Line(msgspec.Struct):
    """One line of an order."""

    sku: str
    count: Annotated[int, msgspec.Meta(ge=1)] = 1


class Receipt(msgspec.Struct):
    """What came of it."""

    id: str


@tool(
    name="orders.place",
    tier="irreversible",
    owner="support",
    timeout_s=10,
    scopes={"orders:write", "mail:send"},
    calls_max=1,
    egress=("note",),
    idempotent=True,
)
async def place(  # noqa: PLR0917 - a tool is called by name
    ctx: Context,
    lines: list[Line],
    note: str,
    colour: Colour = Colour.RED,
    mode: Literal["fast", "cheap"] = "cheap",
    at: dt.datetime | None = None,
    tags: list[str] = [],  # noqa: B006 - copied for every call
) -> Receipt:
    """Place an order.

    It is shipped the same day.

    Args:
        ctx: The attempt.
        lines: What to ship,
            at least one line.
        note (str): Printed on the parcel.
        colour: Of the parcel.
        mode: How it travels.
        at: When, if not now.
        tags:
            Ours.

    Returns:
        A receipt.
    """
    assert colour
    assert mode
    assert at is None
    assert tags == []
    return Receipt(id=f"{ctx.run}:{len(lines)}:{note}")


def test_the_contract_has_the_declared_options() -> None:
    """Every option is in the contract, sorted where the order has no meaning."""
    contract = place.contract
    assert (contract.name, contract.tier, contract.kind) == ("orders.place", "irreversible", "async")
    assert (contract.owner, contract.timeout_s, contract.calls_max) == ("support", 10, 1)
    assert contract.scopes == ("mail:send", "orders:write")
    assert contract.egress == ("note",)
    assert contract.safe_to_repeat
    assert contract.description == "Place an order.\n\nIt is shipped the same day."
    assert contract.returns == msgspec.json.schema(Receipt)
    assert len(contract.digest()) == 64


def test_the_schema_is_strict_and_described() -> None:
    """No unknown argument at any depth; the texts of the docstring are in the schema, where a model reads them."""
    schema = place.contract.parameters
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["lines", "note"]
    assert schema["properties"]["lines"]["description"] == "What to ship, at least one line."
    assert schema["properties"]["note"] == {"type": "string", "description": "Printed on the parcel."}
    assert schema["properties"]["mode"]["enum"] == ["cheap", "fast"]
    assert "ctx" not in schema["properties"]
    assert schema["$defs"]["Line"]["additionalProperties"] is False


@pytest.mark.parametrize(
    ("raw", "good"),
    [
        ('{"lines":[{"sku":"a","count":2.0}],"note":"x"}', True),
        ('{"lines":[{"sku":"a"}],"note":"x","colour":"blue","at":null,"tags":["t"]}', True),
        ('{"lines":[{"sku":"a","count":0}],"note":"x"}', False),
        ('{"lines":[{"sku":"a","colour":"red"}],"note":"x"}', False),
        ('{"lines":[],"note":"x","colour":"green"}', False),
        ('{"lines":[],"note":null}', False),
        ('{"lines":[],"note":"x","extra":1}', False),
    ],
)
def test_schema_and_signature_agree(raw: str, good: bool) -> None:
    """The function can be called with all arguments that the validator accepts."""
    checked = check_arguments(raw, place.contract)
    assert (checked.args is not None) is good
    if checked.args is not None:
        assert set(place.bind(checked.args)) == {"lines", "note", "colour", "mode", "at", "tags"}


def test_arguments_that_do_not_fit_are_an_error_for_the_model() -> None:
    """Binding fails as ``invalid``, before anything took effect."""
    with pytest.raises(ToolFailed, match="do not fit its signature") as caught:
        place.bind(b'{"lines":1}')
    assert (caught.value.type, caught.value.retry_safe) == ("invalid", True)


async def test_a_tool_is_called_like_the_function_it_is(make_context: MakeContext) -> None:
    """A unit test needs no runtime."""
    ctx = make_context()
    assert (await place(ctx, [Line("a")], note="n")).id == "run-1:1:n"
    assert place.__name__ == "place"
    assert place.__doc__ is not None


def test_a_bare_decorator_makes_a_destructive_tool() -> None:
    """An undeclared tier counts as the worst case."""

    @tool
    def wipe(ctx: Context) -> None:
        """Wipe everything."""

    assert isinstance(wipe, Tool)
    assert wipe.contract.tier == "destructive"
    assert wipe.contract.kind == "thread"
    assert not wipe.contract.safe_to_repeat
    assert wipe.declares_tier is False
    assert wipe.contract.parameters == {
        "type": "object",
        "properties": {},
        "required": [],
        "additionalProperties": False,
    }
    assert wipe.contract.returns == {"type": "null"}


def test_digests_tell_contracts_apart() -> None:
    """Equal declarations have equal digests; any difference changes the digest."""

    def declared(**options: Any) -> str:
        @tool(tier="read", **options)
        async def lookup(ctx: Context, a: int) -> int:  # noqa: ARG001 - declared only
            """Look it up."""
            return a

        return lookup.contract.digest()

    assert declared() == declared()
    assert declared(scopes={"b", "a"}) == declared(scopes=["a", "b"])
    assert len({declared(), declared(owner="x"), declared(timeout_s=9), declared(egress=("a",))}) == 4


def _no_context(a: int) -> None:
    """Text."""
    assert a


def _nothing() -> None:
    """Text."""


def _variadic(ctx: Context, *args: int) -> None:
    """Text."""
    del ctx, args


def _keywords(ctx: Context, **args: int) -> None:
    """Text."""
    del ctx, args


def _positional(ctx: Context, a: int, /) -> None:
    """Text."""
    del ctx, a


def _undocumented(ctx: Context) -> None:
    assert ctx


def _inexpressible(ctx: Context, a: Callable[[], None]) -> None:
    """Text."""
    del ctx, a


def _unresolved(ctx: Context, a: Missing) -> None:  # type: ignore[name-defined] # noqa: F821 # pyright: ignore[reportUndefinedVariable, reportUnknownParameterType]
    """Text."""
    del ctx, a


def _misdescribed(ctx: Context, a: int) -> None:
    """Text.

    Args:
        ctx: The attempt.
        a: There.
        b: Not there.
    """
    del ctx, a


def _untyped(ctx: Context, a) -> None:  # type: ignore[no-untyped-def] # noqa: ANN001 # pyright: ignore[reportMissingParameterType, reportUnknownParameterType]
    """Text."""
    del ctx, a


def _fine(ctx: Context, a: int = 1) -> None:
    """Text."""
    del ctx, a


async def _fine_async(ctx: Context, a: int = 1) -> None:
    """Text."""
    del ctx, a


WRONG: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (_no_context, {}, "does not take a Context"),
    (_nothing, {}, "does not take a Context"),
    (_variadic, {}, r"takes \*args"),
    (_keywords, {}, r"takes \*args"),
    (_positional, {}, "positional only"),
    (_undocumented, {}, "no docstring"),
    (_inexpressible, {}, "cannot be (expressed|described)"),
    (_unresolved, {}, "cannot be resolved"),
    (_misdescribed, {}, "describes b"),
    (_untyped, {}, "argument a has no type"),
    (_fine, {"tier": "harmless"}, "must be one of read, reversible"),
    (_fine, {"egress": ("b",)}, "egress names b"),
    (_fine, {"egress": "a"}, "is a list of names"),
    (_fine, {"kind": "async"}, "does not fit"),
    (_fine_async, {"kind": "thread"}, "does not fit"),
    (_fine, {"kind": "wait"}, "must be one of async, thread, process"),
    (_fine, {"timeout_s": 0}, "timeout_s must be over 0"),
    (_fine, {"timeout_s": 1e9}, "at most 86400"),
    (_fine, {"calls_max": -1}, "calls_max must be a whole number"),
    (_fine, {"retries_max": 1.5}, "retries_max must be a whole number"),
    (_fine, {"timeouts": 1}, "no option timeouts"),
    (_fine, {"probe": _fine}, "probe must be an async def"),
    (_fine, {"name": "Orders"}, "must be like"),
    (_fine, {"name": "a__b"}, "must be like"),
    (_fine, {"name": "a."}, "must be like"),
    (_fine, {"name": "a.1b"}, "must be like"),
    (_fine, {"name": "a\n"}, "must be like"),
    (_fine, {"name": "a" * 61}, "at most 60"),
    (Receipt, {"name": "receipt"}, "is not a function"),
]


@pytest.mark.parametrize(("fn", "options", "sentence"), WRONG)
def test_a_wrong_declaration_is_refused_in_one_sentence(
    fn: Callable[..., Any], options: dict[str, Any], sentence: str
) -> None:
    """At import, with the tool, the error and the correct form."""
    options = {"name": "wrong", **options}
    with pytest.raises(ConfigError, match=sentence) as caught:
        cast("Callable[..., Any]", tool)(**options)(fn)
    assert "\n" not in str(caught.value)


def test_a_call_may_take_as_long_as_the_limits_of_a_run_allow() -> None:
    """One truth for both: a tool's timeout and the largest ``tool_timeout_s``."""
    longest_s = LIMITS_MAX["tool_timeout_s"]
    assert tool(name="slow", timeout_s=longest_s)(_fine).contract.timeout_s == longest_s
    with pytest.raises(ConfigError, match=f"at most {longest_s}"):
        tool(name="slow", timeout_s=longest_s + 1)(_fine)


def test_two_types_that_a_schema_cannot_tell_apart_are_refused() -> None:
    """In the names of a schema every character but ASCII letters, digits and dots becomes the same sign."""
    first, second = (msgspec.defstruct(name, [("a", int)], module="m") for name in ("Grün", "Grön"))

    def place(ctx: Context, a: Any, b: Any) -> None:
        """Place it."""

    place.__annotations__.update(a=first, b=second)
    with pytest.raises(ConfigError, match="tool place: two of its types have names that differ in no ASCII letter"):
        tool(tier="read")(place)


def test_a_process_tool_must_be_at_module_level() -> None:
    """A function inside another one cannot be found by a fresh interpreter."""
    with pytest.raises(ConfigError, match="define it at module level"):

        @tool(tier="read", kind="process")
        def inner(ctx: Context) -> None:
            """Text."""


def test_a_context_imported_for_type_checking_only_is_enough() -> None:
    """The annotation of ``ctx`` is never evaluated."""
    namespace: dict[str, Any] = {"tool": tool}
    exec(  # the annotation is a name that does not exist at run time
        "from __future__ import annotations\n"
        "@tool(tier='read')\n"
        "def late(ctx: Elsewhere, a: int) -> int:\n"
        "    'Text.'\n"
        "    return a\n",
        namespace,
    )
    assert namespace["late"].contract.parameters["required"] == ["a"]


def test_docstrings_are_read_google_style() -> None:
    """Sections end the description; continuation lines belong to the argument above."""
    text, notes = read_docstring(
        "Do it.\n\nMore: with a colon.\n\nArgs:\n    a: One\n        two: three.\n    b (int, optional): Four.\n\n"
        "Raises:\n    ValueError: never.\n"
    )
    assert text == "Do it.\n\nMore: with a colon."
    assert notes == {"a": "One two: three.", "b": "Four."}
