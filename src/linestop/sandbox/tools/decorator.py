"""``@tool``: a Python function with a contract.

The contract is created once, when the function is declared, so that a wrong declaration fails at import and not
in the middle of a run. The function stays an ordinary function: a unit test can call it directly.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Concatenate, Generic, Literal, ParamSpec, TypedDict, TypeVar, Unpack, cast, overload

import msgspec

from linestop.errors import ConfigError
from linestop.sandbox.tools.context import Context
from linestop.sandbox.tools.failures import ToolFailed, ToolUnknown
from linestop.sandbox.tools.function_signature import Signature, read_signature
from linestop.schemas.defaults import LIMITS_MAX, Limits
from linestop.schemas.tool_contracts import TIERS, Contract, Tier, ToolKind

__all__ = ["AnyTool", "Context", "Tool", "ToolFailed", "ToolOptions", "ToolUnknown", "tool"]

P = ParamSpec("P")
R = TypeVar("R")
Probe = Callable[..., Awaitable[bool | None]]
"""``(ctx, **args)``: True if the key took effect, False if it did not and never will, None if it cannot tell."""

Check = Callable[[Any], Sequence[str]]
"""Checks a result and returns findings, one sentence each; an empty tuple means that it is fine."""

NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*")
NAME_CHARS_MAX = 60
DEFAULTS = Limits()
"""A contract that is stored without timeout and retries has 5 s and 2 for ever; a new one has these."""


class ToolOptions(TypedDict, total=False):
    """The options of ``@tool``: the fields of ``Contract``, and the functions that back them."""

    name: str
    tier: Tier
    kind: Literal["async", "thread", "process"]
    owner: str
    timeout_s: float
    retries_max: int
    idempotent: bool
    repeatable: bool
    scopes: Collection[str]
    egress: Collection[str]
    trusted: Collection[str]
    content: Collection[str]
    calls_max: int
    price_micros: int
    ordered: bool
    raises_before_effect: bool
    probe: Probe
    check: Check


class Tool(Generic[P, R]):
    """A function with its contract. Calling the tool calls the function, without the runtime."""

    def __init__(self, fn: Callable[P, R], contract: Contract, signature: Signature, options: ToolOptions) -> None:
        self.fn = fn
        self.contract = contract
        self.arguments = signature.arguments
        self.returns = signature.returns
        self.probe = options.get("probe")
        self.check = options.get("check")
        self.declares_tier = "tier" in options
        self.__doc__ = fn.__doc__
        self.__name__: str = fn.__name__
        self.__module__ = fn.__module__
        self.__wrapped__ = fn

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function directly."""
        return self.fn(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Tool({self.name!r}, tier={self.contract.tier!r}, kind={self.contract.kind!r})"

    @property
    def name(self) -> str:
        """The name by which agents and models know the tool."""
        return self.contract.name

    def with_contract(self, contract: Contract) -> AnyTool:
        """The same function under another contract."""
        other = copy.copy(self)
        other.contract = contract
        return cast("AnyTool", other)

    def bind(self, args: bytes) -> dict[str, Any]:
        """Decode canonical JSON arguments into the values that the function takes.

        Raises:
            ToolFailed: type ``invalid``, if they do not fit the signature.
        """
        try:
            decoded = msgspec.json.decode(args, type=self.arguments)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            message = f"the arguments of {self.name} do not fit its signature: {error}"
            raise ToolFailed(message, type="invalid", retry_safe=True) from None
        return {field: getattr(decoded, field) for field in self.arguments.__struct_fields__}


AnyTool = Tool[..., Any]


@overload
def tool(fn: Callable[Concatenate[Context, P], R], /) -> Tool[Concatenate[Context, P], R]: ...
@overload
def tool(
    **options: Unpack[ToolOptions],
) -> Callable[[Callable[Concatenate[Context, P], R]], Tool[Concatenate[Context, P], R]]: ...
def tool(fn: Any = None, /, **options: Unpack[ToolOptions]) -> Any:
    """Declare a function as a tool; an undeclared ``tier`` is ``destructive``.

    An ``async def`` runs in the event loop and can be cancelled. A plain function runs in a thread, which cannot be
    cancelled. With ``kind="process"`` either runs in a child process, which can be killed. Arguments have any type
    that msgspec can express (``Annotated[int, msgspec.Meta(ge=1)]``); their descriptions are in the docstring under
    ``Args:``.

    Raises:
        ConfigError: if the declaration is wrong, in one sentence.
    """

    def decorate(fn: Callable[..., Any]) -> AnyTool:
        return make_tool(fn, options)

    return decorate if fn is None else decorate(fn)


def make_tool(fn: Callable[P, R], options: ToolOptions) -> Tool[P, R]:
    """Create the tool for ``fn``, as ``@tool(**options)`` does."""
    name = options.get("name", getattr(fn, "__name__", "?"))
    if not NAME.fullmatch(name) or "__" in name or len(name) > NAME_CHARS_MAX:
        raise ConfigError(
            f"tool name {name!r} must be like orders.lookup: lower case, digits, single _ and dots, "
            f"at most {NAME_CHARS_MAX} characters"
        )
    if not inspect.isfunction(fn):
        raise ConfigError(f"tool {name} is not a function; decorate a def or an async def")
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise ConfigError(f"tool {name} is a generator, whose body would not run; return a list instead of yielding")
    _check_options(name, options)
    signature = read_signature(fn, name)
    contract = Contract(
        name=name,
        description=signature.description,
        parameters=signature.parameters,
        returns=signature.result,
        kind=_kind(name, fn, options),
        probe=options.get("probe") is not None,
        checks=options.get("check") is not None,
        **_contract_fields(options),
    )
    for option, arguments in (("egress", contract.egress), ("content", contract.content)):
        for argument in arguments:
            if re.split(r"[.\[]", argument)[0] not in signature.parameters["properties"]:
                raise ConfigError(f"tool {name}: {option} names {argument}, which is not one of its arguments")
    return Tool(cast("Callable[P, R]", fn), contract, signature, options)


def _check_options(name: str, options: ToolOptions) -> None:
    unknown = sorted(set(options) - ToolOptions.__optional_keys__)
    if unknown:
        raise ConfigError(f"tool {name}: there is no option {unknown[0]}; see docs/tools.md")
    tier = options.get("tier", "destructive")
    if tier not in TIERS:
        raise ConfigError(f"tool {name}: tier {tier!r} must be one of {', '.join(TIERS)}")
    timeout_s_max = LIMITS_MAX["tool_timeout_s"]
    if not 0 < options.get("timeout_s", 1) <= timeout_s_max:
        raise ConfigError(f"tool {name}: timeout_s must be over 0 and at most {timeout_s_max}")
    counts = {key: options.get(key, 0) for key in ("retries_max", "calls_max", "price_micros")}
    for option, count in counts.items():
        if not isinstance(count, int) or count < 0:
            raise ConfigError(f"tool {name}: {option} must be a whole number, not negative")
    if not isinstance(options.get("raises_before_effect", False), bool):
        raise ConfigError(f"tool {name}: raises_before_effect must be True or False")
    for option in ("scopes", "egress", "trusted", "content"):
        if isinstance(options.get(option), str):
            raise ConfigError(f"tool {name}: {option} is a list of names; write ({options.get(option)!r},)")
    if (probe := options.get("probe")) is not None and not inspect.iscoroutinefunction(probe):
        raise ConfigError(f"tool {name}: probe must be an async def (ctx, **args) -> bool | None")


def _kind(name: str, fn: Callable[..., Any], options: ToolOptions) -> ToolKind:
    asynchronous = inspect.iscoroutinefunction(fn)
    kind = options.get("kind", "async" if asynchronous else "thread")
    if kind not in {"async", "thread", "process"}:
        raise ConfigError(f"tool {name}: kind {kind!r} must be one of async, thread, process")
    if (kind == "async") != asynchronous and kind != "process":
        raise ConfigError(f"tool {name}: kind {kind} does not fit; use async def for async, def for thread")
    if kind == "process" and "." in fn.__qualname__:
        raise ConfigError(f"tool {name} runs in a child process, which must find it: define it at module level")
    return kind


def _contract_fields(options: ToolOptions) -> dict[str, Any]:
    """The options that are fields of the contract, the defaults included; collections become sorted tuples."""
    fields: dict[str, Any] = {"timeout_s": DEFAULTS.tool_timeout_s, "retries_max": DEFAULTS.tool_retries_max}
    fields |= {key: value for key, value in options.items() if key not in {"name", "kind", "probe", "check"}}
    for key in ("scopes", "egress", "trusted", "content"):
        if key in fields:
            fields[key] = tuple(sorted(fields[key]))
    return fields
