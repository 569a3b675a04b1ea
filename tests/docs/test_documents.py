"""The pages are true: links lead somewhere, commands exist, and tables agree with the code."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from pathlib import Path
from typing import Any, get_args

import click
import msgspec
import pytest
from tests.documents import HOME, PAGES, ROOT, anchors, blocks, commands, links, name_of, table, targets

import linestop
import linestop.testing
from linestop import errors
from linestop.bus.disk_space import MIB
from linestop.cli import exit_codes
from linestop.cli.main import cli
from linestop.config.agent_files import AgentFile, PolicyTable
from linestop.config.project_file import ENVIRONMENT, Config
from linestop.errors import LinestopError
from linestop.sandbox.tools.perform_call import PerformLimits
from linestop.schemas.defaults import (
    BLOB_BYTES_MAX,
    EGRESS_REDIRECTS_MAX,
    HTTP_TEXT_CHARS_MAX,
    TOOL_OUTPUT_BYTES_MAX,
    TOOL_THREADS_MAX,
    AccountLimits,
    Limits,
)
from linestop.schemas.events import StopCode
from linestop.schemas.model_messages import FailureClass
from linestop.schemas.run.call_states import MODEL_DOWN_KINDS
from linestop.schemas.run.make_stop import CAUSE, STATUS
from linestop.schemas.run.starting.next_start import RETRIED_KINDS
from linestop.schemas.subjects import ACTORS
from linestop.schemas.text.redaction import DEPTH_MAX
from linestop.schemas.text.value_size import RESULT_CONTAINERS_MAX

ERRORS = ROOT / "docs" / "errors.md"
OPERATIONS = ROOT / "docs" / "operations.md"
FILES_MAX = 400
_OUR_IMPORT = re.compile(r"^[ \t]*from (?P<module>linestop[\w.]*) import (?P<names>[^(#\n]+)", re.MULTILINE)
MISSING_FEATURES = ("view", "replay", "fork", "diff", "sql", "report", "eval", "console")
"""Commands that the guarantees name as not built; one that comes to exist must leave that list."""


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    """A link names a file that exists, and a heading or mark of it if it names one."""
    for link in links(page):
        where, _, anchor = link.partition("#")
        if (ours := re.fullmatch(rf"{re.escape(HOME)}/(?:blob|tree)/main/(.+)", where)) is not None:
            target = ROOT / ours[1]
        elif "://" in where or where.startswith("mailto:"):
            continue
        else:
            target = (page.parent / where).resolve() if where else page
        assert target.exists(), f"{name_of(page)} links to {link}, which is not there"
        assert not anchor or anchor in anchors(target), f"{name_of(page)} links to {link}: no such heading"


def test_the_readme_can_be_read_on_a_package_page() -> None:
    """There are no other pages beside it, so its links are absolute."""
    relative = [link for link in links(ROOT / "README.md") if "://" not in link and not link.startswith("#")]
    assert relative == []


def test_the_package_names_its_home_and_its_pages() -> None:
    """A reader who finds the package finds the project, its documents and where to report."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["urls"]["Homepage"] == HOME
    assert {"Documentation", "Changelog", "Issues"} <= set(project["urls"])
    assert project["authors"]
    assert project["keywords"]
    for name in ("Documentation", "Changelog"):
        assert (ROOT / project["urls"][name].removeprefix(f"{HOME}/blob/main/")).exists()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_exists_with_its_options(page: Path) -> None:
    """A reader may type every command, with every option, that a page names."""
    for words in commands(page):
        assert not (wrong := unknown_word(words)), f"{name_of(page)}: linestop {' '.join(words)}: {wrong}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_make_target_exists(page: Path) -> None:
    """A page names only targets of the Makefile."""
    known = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert not set(targets(page)) - known


def unknown_word(words: list[str]) -> str:
    """The first command or option that does not exist, or nothing."""
    command: click.Command = cli
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word.startswith("-") and word not in {"-", "--help"}:
            name, given, _ = word.partition("=")
            option = next((p for p in command.params if name in (*p.opts, *p.secondary_opts)), None)
            if option is None:
                return f"there is no option {name}"
            skip = isinstance(option, click.Option) and not option.is_flag and not given
        elif isinstance(command, click.Group):
            found = command.get_command(click.Context(command), word)
            if found is None:
                return f"there is no command {word}"
            command = found
    return ""


def test_the_guarantees_name_only_features_that_are_missing() -> None:
    """The list of what is not built yet is not older than the code."""
    missing = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8").partition("## What is not built yet")[2]
    for name in MISSING_FEATURES:
        assert cli.get_command(click.Context(cli), name) is None, f"{name} exists: take it off the list"
        assert name in missing, f"the page does not say that {name} is missing"


# --- errors.md -----------------------------------------------------------------------------------------------


def all_errors() -> dict[str, type[LinestopError]]:
    """Every error class of ours, by name."""
    found = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type)}
    return {name: kind for name, kind in found.items() if issubclass(kind, LinestopError)}


def test_the_error_table_is_the_tree() -> None:
    """Each class stands in the table with its code and its exit code."""
    rows = table(ERRORS, "The tree")
    assert {name: cells[:2] for name, cells in rows.items()} == {
        name: [kind.code, str(kind.exit_code)] for name, kind in all_errors().items()
    }


def test_the_exit_codes_are_all_there() -> None:
    """Every code that a command can end with stands in the table."""
    used = {value for name, value in vars(exit_codes).items() if name.startswith("EXIT_") and isinstance(value, int)}
    used |= {kind.exit_code for kind in all_errors().values()}
    assert {int(code) for code in table(ERRORS, "Exit codes")} == used


def test_the_stop_codes_are_those_of_the_code() -> None:
    """Each stop code stands in the table with the status and the cause it gives a run."""
    codes: tuple[StopCode, ...] = get_args(StopCode)
    expected = {code: [STATUS[code], CAUSE[code]] for code in codes}
    assert {code: cells[:2] for code, cells in table(ERRORS, "Stop codes").items()} == expected


def test_the_failure_classes_are_those_of_the_code() -> None:
    """Each class of a model's failure stands in the table, with what is done about it."""
    rows = table(ERRORS, "Failure classes of a model request")
    assert set(rows) == set(get_args(FailureClass))
    assert {name for name, cells in rows.items() if cells[0] == "yes"} == RETRIED_KINDS
    assert {name for name, cells in rows.items() if cells[1] == "yes"} == MODEL_DOWN_KINDS


def test_the_refusal_codes_are_those_of_the_code() -> None:
    """Each code that a task may be refused with stands in the table."""
    codes: set[str] = set()
    for path in (ROOT / "src" / "linestop" / "actors").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                given = {keyword.arg: keyword.value for keyword in node.keywords}
                first = node.args[0] if node.func.id == "refuse" else given.get("code")
                if node.func.id in {"refuse", "Refused"} and isinstance(first, ast.Constant):
                    codes.add(str(first.value))
    assert set(table(ERRORS, "Refusal codes")) == codes


# --- operations.md -------------------------------------------------------------------------------------------


def test_the_environment_table_is_the_codes() -> None:
    """Each variable that overrides configuration stands in the table, and no other."""
    assert set(table(OPERATIONS, "Environment variables")) == set(ENVIRONMENT)


def keys_of(kind: type[msgspec.Struct], prefix: str = "") -> dict[str, Any]:
    """The keys of a table with their defaults, nested ones with dots."""
    found: dict[str, Any] = {}
    for key in msgspec.structs.fields(kind):
        if isinstance(key.default, msgspec.Struct):
            found |= keys_of(type(key.default), f"{prefix}{key.name}.")
        else:
            found[prefix + key.name] = None if key.default is msgspec.NODEFAULT else key.default
    return found


def test_the_configuration_table_is_the_codes() -> None:
    """Each key of ``linestop.toml`` stands in the table; numbers and words with their defaults."""
    rows, known = table(OPERATIONS, "linestop.toml"), keys_of(Config)
    assert set(rows) == set(known)
    assert_defaults(rows, known)


def test_the_agent_file_table_is_the_codes() -> None:
    """Each key of an agent's file stands in the table; tables of their own are named as such."""
    rows = table(OPERATIONS, "Agent files")
    fields = {f.name for f in msgspec.structs.fields(AgentFile)} - {"limits", "policy"}
    assert set(rows) == fields | {f"policy.{f.name}" for f in msgspec.structs.fields(PolicyTable)} | {"limits"}


@pytest.mark.parametrize(("heading", "kind"), [("Limits of a run", Limits), ("Accounts", AccountLimits)])
def test_the_tables_of_limits_are_the_codes(heading: str, kind: type[msgspec.Struct]) -> None:
    """Each limit stands in its table with its default."""
    rows, known = table(OPERATIONS, heading), keys_of(kind)
    assert set(rows) == set(known)
    assert_defaults(rows, known)


def assert_defaults(rows: dict[str, list[str]], known: dict[str, Any]) -> None:
    """Check the second cell of every row whose default is a number or a word."""
    for key, default in known.items():
        if isinstance(default, int | float) and not isinstance(default, bool):
            assert float(rows[key][0].replace(",", "")) == default, key
        elif isinstance(default, str) and default:
            assert rows[key][0] == default, key


# --- tools.md ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sentence", "default"),
    [
        ("left behind; at most {:,} at a time", TOOL_THREADS_MAX),
        ("its first {:,} KiB are logged", TOOL_OUTPUT_BYTES_MAX // 1024),
        ("A result is JSON of at most {:,} MiB", BLOB_BYTES_MAX // MIB),
        ("nested at most {:,} levels", DEPTH_MAX),
        ("of at most {:,} lists and objects", RESULT_CONTAINERS_MAX),
        ("The model gets the first {:,} KiB", Limits().result_bytes_max // 1024),
        ("most {:,} characters, never a traceback", PerformLimits().message_chars_max),
        ("as text (at most {:,} characters)", HTTP_TEXT_CHARS_MAX),
        ("each is checked like a request, at most {:,}.", EGRESS_REDIRECTS_MAX),
    ],
)
def test_the_figures_about_tools_are_the_defaults(sentence: str, default: int) -> None:
    """Each limit that the page of tools states is the one in force."""
    assert sentence.format(default) in " ".join((ROOT / "docs" / "tools.md").read_text(encoding="utf-8").split())


# --- roles and decisions -------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ACTORS)
def test_a_roles_page_names_what_wakes_it_and_what_it_reads(role: str) -> None:
    """The page of a role lists the same wakes and facts as its class."""
    found = vars(importlib.import_module(f"linestop.actors.{role}"))[role.capitalize()]
    page = ROOT / "docs" / "roles" / f"{role}.md"
    wakes = set(re.findall(r"`([a-z.]+)`", section(page, "Woken by")))
    assert wakes == set(found.wakes)
    needs = set(re.findall(r"`([A-Z]\w+)`", section(page, "Reads")))
    assert {kind.__name__ for kind in found.facts_type.kinds()} == needs


def section(page: Path, heading: str) -> str:
    """The text below a heading, up to the next one."""
    return page.read_text(encoding="utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]


def test_every_decision_is_in_the_index_and_has_its_three_parts() -> None:
    """A decision has context, choice and consequences; the index has its number and heading, in order."""
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    rows: list[str] = []
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert all(f"## {part}\n" in text for part in ("Context", "Decision", "Consequences")), page.name
        number, _, title = text.partition("\n")[0].removeprefix("# ").partition(": ")
        assert page.name.startswith(f"{number}-"), f"{page.name} begins with '# {number}: …'"
        rows.append(f"| [{number}](decisions/{page.name}) | {title} |")
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[\d+\]\(decisions/.+$", index, re.MULTILINE) == rows


def test_pages_and_examples_import_only_what_is_public() -> None:
    """Python of ours that a reader may copy comes from ``linestop`` and ``linestop.testing``, by a public name."""
    public = {"linestop": set(linestop.__all__), "linestop.testing": set(linestop.testing.__all__)}
    code = [block.text for page in PAGES for block in blocks(page) if block.language == "python"]
    code += [path.read_text() for path in (ROOT / "examples").rglob("*.py")]
    found = [match for text in code for match in _OUR_IMPORT.finditer(text)]
    assert len(found) >= 6
    for match in found:
        assert match["module"] in public, match[0]
        assert {name.split()[0] for name in match["names"].split(",")} <= public[match["module"]], match[0]
