"""All tools of a process: the built-in ones, and those of the modules that the configuration names."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Final, cast

from linestop.errors import ConfigError, NotFound
from linestop.sandbox.tools.decorator import AnyTool, Tool
from linestop.sandbox.tools.process_tool import FILE_MODULE_PREFIX
from linestop.schemas.argument_validation import schema_error
from linestop.schemas.tool_contracts import Contract

_LOADERS: Final = frozenset({__file__, importlib.__file__})
"""Files in the traceback of every source that cannot be loaded."""


class Registry:
    """Tools by name, and all contracts, those of waits included."""

    def __init__(self) -> None:
        self._tools: dict[str, AnyTool] = {}
        self._contracts: dict[str, Contract] = {}
        self._sources: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._contracts)

    def add(self, tool: AnyTool, source: str) -> None:
        """Add a tool; the same tool may be added again, another tool of the same name may not.

        Raises:
            ConfigError: if the name is taken or the schema cannot be used.
        """
        if self._tools.get(tool.name) is tool:
            return
        self.add_contract(tool.contract, source)
        self._tools[tool.name] = tool

    def add_contract(self, contract: Contract, source: str) -> None:
        """Add a contract without a function: a wait, or a tool that another process performs."""
        if contract.name in self._contracts:
            raise ConfigError(
                f"tool {contract.name} is declared in {self._sources[contract.name]} and again in {source}; "
                f"rename one of them"
            )
        if reason := schema_error(contract.parameters):
            raise ConfigError(f"tool {contract.name} from {source}: its schema cannot be used ({reason})")
        self._contracts[contract.name] = contract
        self._sources[contract.name] = source

    def tool(self, name: str) -> AnyTool:
        """The tool of that name.

        Raises:
            NotFound: if no tool has that name, or it has no function.
        """
        try:
            return self._tools[name]
        except KeyError:
            raise NotFound(f"there is no tool {name} here; `linestop tools ls` lists them") from None

    def contract(self, name: str) -> Contract:
        """The contract of that name.

        Raises:
            NotFound: if no contract has that name.
        """
        try:
            return self._contracts[name]
        except KeyError:
            raise NotFound(f"there is no tool {name} here; `linestop tools ls` lists them") from None

    def contracts(self) -> tuple[Contract, ...]:
        """All contracts, by name."""
        return tuple(self._contracts[name] for name in sorted(self._contracts))

    def tools(self) -> tuple[AnyTool, ...]:
        """All tools with a function, by name."""
        return tuple(self._tools[name] for name in sorted(self._tools))

    def source(self, name: str) -> str:
        """The source of a tool, as the configuration names it."""
        return self._sources.get(name, "")

    def without_tier(self) -> frozenset[str]:
        """Names of tools that declare no tier and so count as destructive."""
        return frozenset(name for name, tool in self._tools.items() if not tool.declares_tier)


def load_registry(sources: Sequence[str] = (), *, base: Path | None = None, builtins: bool = True) -> Registry:
    """Load the built-in tools and those of ``sources``.

    A source is ``python:package.module`` or the path of a ``.py`` file relative to ``base`` (default: the
    current directory).

    Raises:
        ConfigError: for a source that cannot be loaded, holds no tool, or repeats a name.
    """
    registry = Registry()
    if builtins:
        # Imported here because the built-in tools are declared with the decorator that this module serves.
        from linestop.sandbox.tools.builtin import TOOLS, WAITS  # noqa: PLC0415

        for tool in TOOLS:
            registry.add(tool, "linestop")
        for contract in WAITS:
            registry.add_contract(contract, "linestop")
    for source in sources:
        found = _load(source, base or Path.cwd())
        if not found:
            raise ConfigError(f"tools: {source} declares no tool; decorate a function with @tool(...)")
        for tool in found.values():
            registry.add(tool, source)
    return registry


def load_module(name: str) -> dict[str, AnyTool]:
    """Import a module and return the tools in it by name."""
    try:
        module = importlib.import_module(name)
    except ConfigError as error:
        raise _with_location(error, name) from None
    except Exception as error:
        raise ConfigError(f"tools: module {name} cannot be imported ({_one_line(error)})") from error
    return find_tools(module)


def load_file(path: Path) -> dict[str, AnyTool]:
    """Load a Python file as a module and return the tools in it by name."""
    resolved = path.resolve()
    name = f"{FILE_MODULE_PREFIX}{resolved.stem}_{hashlib.sha256(str(resolved).encode()).hexdigest()[:12]}"
    if (loaded_module := sys.modules.get(name)) is not None:
        return find_tools(loaded_module)
    if not resolved.is_file():
        raise ConfigError(f"tools: there is no file {path}")
    spec = importlib.util.spec_from_file_location(name, resolved)
    if spec is None or spec.loader is None:
        raise ConfigError(f"tools: {path} is not a Python file; name a .py file or python:package.module")
    module = importlib.util.module_from_spec(spec)
    # Types in annotations are looked up there, so the module must be known before its code runs.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, ConfigError):
            raise _with_location(error, path) from None
        if not isinstance(error, Exception):
            raise
        raise ConfigError(f"tools: {path} cannot be loaded ({_one_line(error, resolved)})") from error
    return find_tools(module)


def find_tools(module: ModuleType) -> dict[str, AnyTool]:
    """The tools among a module's names.

    Raises:
        ConfigError: if two of them have one name.
    """
    found: dict[str, AnyTool] = {}
    for value in list(vars(module).values()):
        if isinstance(value, Tool):
            tool = cast("AnyTool", value)
            if found.setdefault(tool.name, tool) is not tool:
                raise ConfigError(f"tools: {module.__name__} declares {tool.name} twice; rename one of them")
    return found


def _load(source: str, base: Path) -> dict[str, AnyTool]:
    if source.startswith("python:"):
        return load_module(source.removeprefix("python:"))
    if source.endswith(".py"):
        return load_file(base / source)
    raise ConfigError(f"tools: {source!r} names no tools; write python:package.module or the path of a .py file")


def _with_location(error: ConfigError, where: str | Path) -> ConfigError:
    """The same error with the file or module of the tool: a declaration knows only the name of the tool."""
    return error if str(error).startswith("tools: ") else ConfigError(f"tools: {where}: {error}")


def _one_line(error: BaseException, file: Path | None = None) -> str:
    """The error and where it was raised, if possible the line of ``file`` that led to it."""
    text = f"{type(error).__name__}: {error}".split("\n", 1)[0]
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in _LOADERS and not frame.filename.startswith("<frozen ")
    ]
    if isinstance(error, SyntaxError) or not frames:
        # Python's sentence about a syntax error names the place.
        return text[:200]
    for frame in reversed(frames):
        if frame.filename == str(file):
            return f"{text[:200]}; line {frame.lineno}"
    return f"{text[:200]}; {frames[-1].filename}, line {frames[-1].lineno}"
