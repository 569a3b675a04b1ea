"""The public names of a package: written once, in its stub ``__init__.pyi``, and imported on first use.

``import linestop`` has to cost next to nothing, so its names are not imported there; type checkers need to see them
imported. The stub is for both: they read it, and so does this module.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path


def homes_of(stub: Path, package: str) -> dict[str, str]:
    """Return the module of each name that the stub imports; a submodule of the package itself is its own home."""
    imports = [node for node in ast.parse(stub.read_text(encoding="utf-8")).body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module or f"{package}.{alias.name}" for node in imports for alias in node.names}


def import_on_first_use(package: str, file: str) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of the package whose ``__init__.py`` is ``file``."""
    homes = homes_of(Path(file).with_suffix(".pyi"), package)

    def get(name: str) -> object:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = importlib.import_module(homes[name])
        value: object = home if homes[name] == f"{package}.{name}" else getattr(home, name)
        setattr(sys.modules[package], name, value)
        return value

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return get, names, sorted(homes)
