"""An attempt to move old runs fails and more runs become old: the next one loses nothing and writes nothing twice."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import duckdb
import msgspec
import pytest
from tests.run_logs import SCENARIOS

from linestop.archive import parquet_files
from linestop.archive.duckdb_file import ArchiveFile
from linestop.bus.interfaces import StoredMessage
from linestop.schemas.effect_key import effect_key
from linestop.schemas.run.fold import fold_messages
from linestop.schemas.subjects import RunId, TenantId

LATER: Final = datetime(2099, 1, 1, tzinfo=UTC)
LOG: Final = SCENARIOS["approved"]()
N: Final = len(LOG)
STEPS: Final[dict[str, tuple[Any, str]]] = {
    "statement": (ArchiveFile, "_execute"),
    "sync": (parquet_files, "_sync"),
    "rename": (Path, "rename"),
}


def sealed_at() -> datetime:
    """Return the time at which the run of the log was sealed."""
    sealed = fold_messages(TenantId("t"), RunId("r1"), LOG).sealed
    assert sealed is not None
    return sealed.at


def run_of(name: str, after_seq: int, *, sealed_later: bool = False) -> list[StoredMessage]:
    """The log under another name, after a sequence; optionally sealed a second later, by a clock that is ahead."""
    found: list[StoredMessage] = []
    head = hashlib.sha256(f"t/{name}".encode()).hexdigest()
    for n, (subject, payload, _) in enumerate(LOG, 1):
        for tool, arg in (("look", "a"), ("mail", "b"), ("pay", "a")):
            old, new = (effect_key(f"t/{run}", tool, f'{{"q":"{arg}"}}'.encode()) for run in ("r1", name))
            payload = payload.replace(old.encode(), new.encode())  # noqa: PLW2901 - the same under its name
        event = msgspec.json.decode(payload) | {"prev": head}
        if n == N:
            later = timedelta(seconds=1 if sealed_later else 0)
            event |= {"at": (sealed_at() + later).isoformat(), "head_sha256": head}
        named = subject.replace(".r1.", f".{name}.")
        found.append(StoredMessage(subject=named, payload=msgspec.json.encode(event), seq=after_seq + n))
        head = hashlib.sha256(named.encode() + b"\0" + found[-1].payload).hexdigest()
    return found


def opened(n: int, seq: int) -> StoredMessage:
    """A message of a run that stays."""
    return StoredMessage(subject=f"runs.t.open.validator.opened.{n}", payload=b"{}", seq=seq)


BOTH: Final = [*run_of("early", 0, sealed_later=True), *run_of("late", N), opened(1, 2 * N + 1)]
"""Two runs: the one with the later last event is old enough first."""
FACT: Final = [
    StoredMessage(subject=f"runs.t.late.recorder.amended.{N + 1}", payload=b"{}", seq=2 * N + 2),
    opened(2, 2 * N + 3),
]
"""The events of a run after its seal, between the attempts."""


def require_all(archive: ArchiveFile, log: list[StoredMessage]) -> None:
    """Require that both runs are read as they were stored."""
    for run in ("early", "late"):
        want = [(each.subject, each.payload, each.seq) for each in log if f".{run}." in each.subject]
        assert archive.log_of((TenantId("t"), RunId(run))) == want


def require_once(folder: Path, log: list[StoredMessage]) -> None:
    """Require that the files hold each event of both runs once."""
    with duckdb.connect() as other:
        found = other.execute(f"SELECT seq FROM '{folder}/a-old/*-*/events.parquet' ORDER BY seq").fetchall()
    assert [seq for (seq,) in found] == [each.seq for each in log if ".open." not in each.subject]


def try_that_fails(path: Path, patch: pytest.MonkeyPatch, step: str, at: int) -> bool:
    """Move old runs and fail at a call of this step; False if there is no such call. Add the leftovers of a kill."""
    archive = ArchiveFile(path)
    archive.store(BOTH)
    owner, name = STEPS[step]
    original: Callable[..., Any] = getattr(owner, name)
    calls = iter(range(at))

    def failing(*args: Any, **kwargs: Any) -> Any:
        if next(calls, None) is None:
            raise OSError(28, "No space left on device")
        return original(*args, **kwargs)

    with patch.context() as patched:
        patched.setattr(owner, name, failing)
        try:
            archive.move_old(sealed_at() + timedelta(microseconds=1))
        except OSError:
            shutil.copytree(path.parent, path.parent.with_suffix(".killed"))
            return True
        finally:
            archive.close()
    return False


@pytest.mark.parametrize("fact", [[], FACT], ids=["alone", "and-a-late-fact"])
@pytest.mark.parametrize("step", STEPS)
def test_a_failed_move_loses_nothing_when_more_runs_join(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, fact: list[StoredMessage]
) -> None:
    """At each call of each step, after a kill and after an error: only rows that the files hold are deleted."""
    at = 0
    while try_that_fails(tmp_path / str(at) / "a.duckdb", monkeypatch, step, at):
        for folder in (tmp_path / str(at), tmp_path / f"{at}.killed"):
            archive = ArchiveFile(folder / "a.duckdb")
            archive.store(fact)
            require_all(archive, [*BOTH, *fact])
            while archive.move_old(LATER):
                require_all(archive, [*BOTH, *fact])
            require_all(archive, [*BOTH, *fact])
            status = archive.status()
            assert (status.events, status.runs, status.calls) == (1 + len(fact) // 2, 1, 0)
            require_once(folder, [*BOTH, *fact])
            archive.close()
        at += 1
    assert at > 0


def test_a_batch_without_one_of_its_files_is_ignored(tmp_path: Path) -> None:
    """Its rows are not deleted because of it, and its name is not used again."""
    archive = ArchiveFile(tmp_path / "a.duckdb")
    archive.store(BOTH)
    day = f"{sealed_at().astimezone(UTC):%Y-%m-%d}"
    (tmp_path / "a-old" / f"{day}-{2 * N}").mkdir(parents=True)
    assert archive.move_old(LATER) == 2
    require_all(archive, BOTH)
    require_once(tmp_path, BOTH)
    archive.close()
