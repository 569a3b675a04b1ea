"""linestop as it would be if one default were another: imported again, with that value in the module of the default."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

MODULES = ("linestop.schemas.defaults", "linestop.schemas.broker_defaults")
"""The modules whose constants, and fields of structs, are defaults."""


def default_names() -> list[str]:
    """The names of all defaults: constants, and fields of structs as ``Struct.field``."""
    return [name for module in MODULES for name in _names_in(module)]


def _names_in(module: str) -> list[str]:
    names: list[str] = []
    for node in ast.parse(_source(module).read_text()).body:
        match node:
            case ast.ClassDef():
                names += [f"{node.name}.{name}" for name in _assigned(node.body)]
            case ast.Assign() | ast.AnnAssign():
                names += [name for name in _assigned([node]) if not name.startswith("_")]
            case _:
                pass
    return names


@contextmanager
def changed_default(name: str, value: str) -> Generator[None]:
    """Let every import inside the block see the default ``name`` as the expression ``value``."""
    module_name = next(module for module in MODULES if name in _names_in(module))
    source = _source(module_name)
    own = {key: module for key, module in sys.modules.items() if key.split(".")[0] in {"linestop", "tests"}}
    for key in own:
        del sys.modules[key]
    try:
        spec = importlib.util.find_spec(module_name)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[module_name] = module
        exec(compile(_changed_source(source, name, value), str(source), "exec"), vars(module))
        setattr(importlib.import_module("linestop.schemas"), module_name.rpartition(".")[2], module)
        yield
    finally:
        for key in [key for key in sys.modules if key.split(".")[0] in {"linestop", "tests"}]:
            del sys.modules[key]
        sys.modules.update(own)


def _assigned(body: list[ast.stmt]) -> list[str]:
    targets = [
        node.targets[0] if isinstance(node, ast.Assign) else node.target
        for node in body
        if isinstance(node, ast.Assign | ast.AnnAssign)
    ]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _source(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def _changed_source(source: Path, name: str, value: str) -> ast.Module:
    tree = ast.parse(source.read_text())
    *owner, field = name.split(".")
    body = next(n.body for n in tree.body if isinstance(n, ast.ClassDef) and n.name == owner[0]) if owner else tree.body
    (node,) = [n for n in body if isinstance(n, ast.Assign | ast.AnnAssign) and _assigned([n]) == [field]]
    node.value = ast.parse(value, mode="eval").body
    return ast.fix_missing_locations(tree)
