"""The table of commands, and how the program ends."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import click
import pytest
from tests.cli.leaves import leaves

from linestop.bus.access.rights import CREDENTIALS
from linestop.cli import main as cli_main
from linestop.cli.commands import bus, processes, stopping
from linestop.cli.main import LazyGroup, cli, first_expected_error, run
from linestop.cli.options import CONFIG_FILE, DIRECTORY_DEFAULT
from linestop.client import credentials
from linestop.client.client import STOP_MODES
from linestop.config import project_file
from linestop.config.project_file import Config
from linestop.errors import ConfigError, LinestopError, PermissionDenied, Unreachable
from linestop.schemas.defaults import DEFAULT_TENANT
from linestop.schemas.subjects import ACTORS

HEAVY = (
    "nats",
    "duckdb",
    "anthropic",
    "openai",
    "docker",
    "genai_prices",
    "pydantic",
    "httpx2",
    "httpcore2",
    "rich",
    "cryptography",
    "structlog",
    "anyio",
    "asyncio",
    "msgspec",
    "opentelemetry",
    "jsonschema_rs",
    "uvloop",
    "starlette",
    "importlib.metadata",
)
"""Modules that cost time to import; the help needs none of them."""


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run ``code`` in a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["rnu"], "No such command 'rnu'. Did you mean 'run'?"),
        (["run", "a", "x", "--budget", "3"], "No such option '--budget'. See"),
        (["run", "a", "x", "--detahc"], "No such option '--detahc'. Did you mean '--detach'? See"),
        (["actor"], "Choose from: planner, validator, approver"),
        (["runs", "--limit", "x"], "'x' is not a valid whole number"),
    ],
)
def test_a_mistyped_command_or_value_gets_a_plain_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the nearest command, or the choices, on one line."""
    assert run(words) == 2
    assert sentence in capsys.readouterr().err


def test_help_imports_no_heavy_module(tmp_path: Path) -> None:
    """Help and completion answer at once, because they show a table and import nothing."""
    code = f"""
import sys
from linestop.cli.main import run
assert run(["--help"]) == 0
print("HEAVY", [name for name in {HEAVY!r} if name in sys.modules])
"""
    done = python(code, tmp_path)
    assert "Start here:" in done.stdout
    assert "HEAVY []" in done.stdout, done.stdout + done.stderr


COMMANDS = list(leaves(cli))


def test_the_help_of_a_command_imports_no_heavy_module(tmp_path: Path) -> None:
    """Each of them, also in a project: the help does not wait for the import of a broker's client."""
    (tmp_path / "linestop.toml").write_text("")
    code = f"""
import sys
from linestop.cli.main import run
for name in {[name for name, _ in COMMANDS]!r}:
    assert run([*name.split(), "--help"]) == 0
    print("HEAVY", name, [module for module in {HEAVY!r} if module in sys.modules])
"""
    done = python(code, tmp_path)
    heavy_imports = [line for line in done.stdout.splitlines() if line.startswith("HEAVY")]
    assert len(heavy_imports) == len(COMMANDS), done.stdout + done.stderr
    assert [line for line in heavy_imports if not line.endswith("[]")] == []


UNUSED_BY_CLIENTS = (
    "structlog",
    "rich",
    "pygments",
    "attr",
    "duckdb",
    "starlette",
    "opentelemetry",
    "pydantic",
    "httpx2",
    "httpcore2",
    "h11",
    "jsonschema_rs",
    "uvloop",
    "unittest",
    "cryptography.hazmat.primitives.serialization",
    "linestop.schemas.verify.check_log",
    "linestop.runtime",
    "linestop.sandbox",
    "linestop.models",
    "linestop.reference",
    "linestop.testing",
)
"""What a command about a run does not need: its answer waits for every import."""


@pytest.mark.parametrize("command", ["runs", "show r-1", "stop r-1", "approve r-1 --shown 123456", "events r-1"])
def test_a_command_about_a_run_imports_only_what_a_client_needs(command: str, tmp_path: Path) -> None:
    """No logger, no table, no checker of logs, and nothing of the processes that do the work."""
    code = f"""
import sys
from linestop.cli.main import run
assert run({command.split()!r}) == 2, "there is no credential"
assert "linestop.client.client" in sys.modules
print("HEAVY", [name for name in {UNUSED_BY_CLIENTS!r} if name in sys.modules])
"""
    done = python(code, tmp_path)
    assert "HEAVY []" in done.stdout, done.stdout + done.stderr


UNUSED_BEFORE_SERVING = (
    "openai", "anthropic", "pydantic", "genai_prices", "docker", "duckdb", "starlette", "opentelemetry", "jsonschema",
    "linestop.reference", "linestop.testing",
)  # fmt: skip
"""What a process does not need in order to serve: `dev` and the successor of a killed worker wait for every import."""


@pytest.mark.parametrize("module", ["dev", "up_and_actor"])
def test_a_process_imports_nothing_heavy_that_it_can_serve_without(module: str, tmp_path: Path) -> None:
    """The SDKs of models are imported beside the first runs, the archive in a process of its own."""
    code = f"""
import sys, linestop.cli.serving.{module}
print("HEAVY", [name for name in {UNUSED_BEFORE_SERVING!r} if name in sys.modules])
"""
    done = python(code, tmp_path)
    assert "HEAVY []" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(("name", "command"), COMMANDS)
def test_a_command_has_a_parameter_for_each_of_its_options(name: str, command: click.Command) -> None:
    """No more and no fewer: click passes all of them by name."""
    assert command.help, name
    assert command.callback is not None
    assert set(inspect.signature(command.callback).parameters) == {str(param.name) for param in command.params}


def test_choices_equal_those_of_the_modules_that_help_does_not_import() -> None:
    """They are written down a second time for the help's sake."""
    assert processes.ROLES == ACTORS
    assert set(bus.CREDENTIALS) == set(CREDENTIALS)
    assert list(stopping.STOP_MODES) == list(STOP_MODES)
    assert (DIRECTORY_DEFAULT, CONFIG_FILE) == (credentials.DIRECTORY_DEFAULT, project_file.CONFIG_FILE)
    assert Config().tenant == DEFAULT_TENANT


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["no-such"], "No such command 'no-such'"),
        (["dev", "--no-such"], "No such option"),
        (["actor"], "Missing argument"),
        (["actor", "operator"], "'operator' is not one of"),
        (["actor", "planner", "gates"], "'gates' is not one of"),
        (["--project", "/no/such/folder", "doctor"], "does not exist"),
        (["--profile", "live", "doctor"], "'live' is not one of"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(
    args: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sentence names the mistake and the help to read."""
    assert run(args) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert captured.out == ""


def test_bad_configuration_is_exit_code_2_for_every_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It names key and file."""
    monkeypatch.chdir(tmp_path)
    Path("linestop.toml").write_text("tenant = 1")
    for args in (["tools", "ls"], ["dev"], ["runs"]):
        assert run(args) == 2
        assert "linestop.toml, tenant: Expected `str`, got `int`." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ConfigError("Say it better."), 2, "linestop: Say it better.\n"),
        (Unreachable("Nobody is there."), 8, "linestop: Nobody is there.\n"),
        (ExceptionGroup("of a task group", [PermissionDenied("You may not.")]), 1, "linestop: You may not.\n"),
        (KeyboardInterrupt(), 130, ""),
        (click.Abort(), 130, ""),
    ],
)
def test_errors_end_the_program_with_one_sentence_and_their_code(
    error: BaseException, code: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit codes are those of ``docs/errors.md``."""
    _command(monkeypatch, error)
    assert run(["boom"]) == code
    assert capsys.readouterr().err.lstrip() == words


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (PermissionError(13, "Permission denied", "/state/lock"), 2, "/state/lock cannot be used: Permission denied."),
        (
            ExceptionGroup("g", [FileNotFoundError(2, "No such file or directory", "/proc/x")]),
            2,
            "/proc/x cannot be used",
        ),
        (OSError(28, "No space left on device"), 1, "The system refused to open or write a file: No space left"),
        (ExceptionGroup("g", [OSError(30, "Read-only file system", "/a")]), 2, "/a cannot be used: Read-only file"),
    ],
)
def test_an_operating_system_error_is_one_sentence_and_not_a_defect(
    error: Exception, code: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder that cannot be written and a full disk are nothing to report to us."""
    _command(monkeypatch, error)
    assert run(["boom"]) == code
    error_text = capsys.readouterr().err
    assert error_text.startswith(f"linestop: {words}")
    assert error_text.count("\n") == 1


def test_an_error_holds_nothing_that_a_terminal_would_obey(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parts of the sentence may come from a stranger."""
    _command(monkeypatch, ConfigError("No \x1b[31m\n such\u202e thing."))
    assert run(["boom"]) == 2
    assert capsys.readouterr().err == "linestop: No \\x1b[31m\\n such\\u202e thing.\n"


def test_an_argument_that_is_not_text_is_refused_by_its_number(capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes that are not UTF-8 come in as half characters, which cannot be stored."""
    assert run(["run", "hello", "caf\udce9"]) == 2
    assert "Argument 3 ('caf\\udce9') is not UTF-8 text" in capsys.readouterr().err


def test_an_unexpected_error_is_one_sentence_and_a_traceback_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A traceback on the terminal helps no user; a file with it helps the developer."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".linestop").mkdir()
    _command(monkeypatch, ZeroDivisionError("by zero"))
    assert run(["boom"]) == 1
    (file,) = (tmp_path / ".linestop").glob("crash-*.txt")
    error_text = capsys.readouterr().err
    assert error_text.startswith("linestop: Unexpected ZeroDivisionError")
    assert error_text.count("\n") == 1
    assert str(file) in error_text
    assert "Traceback" in file.read_text()


def test_the_first_error_of_ours_in_nested_groups_is_found() -> None:
    """A failed task group wraps the errors of its tasks, perhaps more than once."""
    inner = Unreachable("gone")
    group = ExceptionGroup("a", [ValueError(), ExceptionGroup("b", [inner])])
    assert first_expected_error(group) is inner
    assert first_expected_error(ExceptionGroup("a", [ValueError()])) is None


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """``--version`` names program and version."""
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("linestop ")


def _command(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Make ``linestop boom`` raise ``error``."""

    @click.command()
    def boom() -> None:
        raise error

    def get_command(self: LazyGroup, ctx: click.Context, name: str) -> click.Command:
        del self, ctx, name
        return boom

    monkeypatch.setattr(cli_main.LazyGroup, "get_command", get_command)
    assert issubclass(ConfigError, LinestopError)
