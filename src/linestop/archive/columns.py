"""The archive's tables, one line a column: its name, its type, and its value.

``events`` has one row for every message of the run log, in stream order, readable or not. ``runs`` and ``calls`` have
the state of each run and each call; they are derived from ``events``. Times are UTC without a zone, money is in
micro-dollars. A payload that is not an event, or not JSON, is stored unchanged in ``raw``.

To add a column, add its line, anywhere in its table: files that exist get the column when they are next opened, empty
in the rows they have (so its type must allow NULL) until ``linestop recorder rebuild``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Generic, Literal, TypeVar

import msgspec

from linestop.archive.row_sources import (
    CallSource,
    EventSource,
    Value,
    agent_name,
    as_json,
    as_text,
    cost_micros,
    duration_s,
    parent_run,
    reason,
    started_at,
    utc,
)
from linestop.schemas.run.fold import Run

VERSION: Final = 1
"""The version of the tables. A file of another version is set aside, and a new one is built from the log."""

INTEGER_MAX: Final = 2**63 - 1

Row = tuple[Value, ...]
S = TypeVar("S")


class Column(msgspec.Struct, Generic[S], frozen=True):
    """A column: its name, its type in SQL, and how its value follows from the source of the row."""

    name: str
    type: str
    value: Callable[[S], Value]


class Table(msgspec.Struct, Generic[S], frozen=True, kw_only=True):
    """A table of the archive. ``key`` names the columns of its primary key, if it has one."""

    name: str
    key: tuple[str, ...] = ()
    columns: tuple[Column[S], ...]

    @property
    def sql(self) -> str:
        """The columns as ``CREATE TABLE`` expects them."""
        key = (f"PRIMARY KEY ({', '.join(self.key)})",) if self.key else ()
        return ", ".join((*(f"{column.name} {column.type}" for column in self.columns), *key))

    @property
    def action(self) -> Literal["insert", "upsert"]:
        """Whether a row replaces the one with its key."""
        return "upsert" if self.key else "insert"

    def rows(self, sources: Iterable[S]) -> list[Row]:
        """Build the row of each source, in the order of ``columns``."""
        values = [_within_range(column.value) if "INT" in column.type else column.value for column in self.columns]
        return [tuple([value(source) for value in values]) for source in sources]


def _within_range(value: Callable[[S], Value]) -> Callable[[S], Value]:
    """Limit integers to a column's range: one absurd figure in a log must not block the other rows."""

    def limited(source: S) -> Value:
        found = value(source)
        return min(max(found, -INTEGER_MAX), INTEGER_MAX) if isinstance(found, int) else found

    return limited


EVENTS: Final = Table[EventSource](
    name="events",
    columns=(
        Column("seq", "BIGINT NOT NULL", lambda of: of.message.seq),
        Column("tenant", "VARCHAR NOT NULL", lambda of: of.subject.tenant if of.subject else ""),
        Column("run", "VARCHAR NOT NULL", lambda of: of.subject.run if of.subject else ""),
        Column("role", "VARCHAR NOT NULL", lambda of: of.subject.role if of.subject else ""),
        Column("event", "VARCHAR NOT NULL", lambda of: of.subject.event if of.subject else ""),
        Column("n", "BIGINT NOT NULL", lambda of: of.subject.n if of.subject else 0),
        Column("said_at", "TIMESTAMP", lambda of: utc(of.event.at) if of.event else None),
        Column("cost_micros", "BIGINT NOT NULL", lambda of: cost_micros(of.event)),
        Column("ignored", "VARCHAR NOT NULL", lambda of: of.ignored),
        Column("subject", "VARCHAR NOT NULL", lambda of: of.message.subject),
        Column("payload", "JSON", lambda of: of.text),
        Column("raw", "BLOB", lambda of: of.message.payload if of.text is None or of.event is None else None),
    ),
)

RUNS: Final = Table[Run](
    name="runs",
    key=("tenant", "run"),
    columns=(
        Column("tenant", "VARCHAR NOT NULL", lambda run: run.tenant),
        Column("run", "VARCHAR NOT NULL", lambda run: run.run),
        Column("status", "VARCHAR NOT NULL", lambda run: run.sealed.status if run.sealed else "open"),
        Column("phase", "VARCHAR NOT NULL", lambda run: str(run.phase)),
        Column("agent", "VARCHAR NOT NULL", agent_name),
        Column("agent_digest", "VARCHAR NOT NULL", lambda run: run.opened.agent.digest if run.opened else ""),
        Column("model", "VARCHAR NOT NULL", lambda run: run.opened.model.model if run.opened else ""),
        Column("user_id", "VARCHAR NOT NULL", lambda run: run.opened.task.user if run.opened else ""),
        Column("key", "VARCHAR NOT NULL", lambda run: run.opened.task.key if run.opened else ""),
        Column("thread", "VARCHAR NOT NULL", lambda run: run.opened.task.thread if run.opened else ""),
        Column("labels", "JSON NOT NULL", lambda run: as_json(run.opened.task.labels if run.opened else {})),
        Column("parent_run", "VARCHAR NOT NULL", parent_run),
        Column("dry_run", "BOOLEAN NOT NULL", lambda run: run.opened.task.dry_run if run.opened else False),
        Column("opened_at", "TIMESTAMP", lambda run: utc(run.opened_at)),
        Column("sealed_at", "TIMESTAMP", lambda run: utc(run.sealed.at) if run.sealed else None),
        Column("updated_at", "TIMESTAMP", lambda run: utc(run.at)),
        Column("cost_micros", "BIGINT NOT NULL", lambda run: run.spent_micros),
        Column("held_micros", "BIGINT NOT NULL", lambda run: run.held_micros),
        Column("tokens", "BIGINT NOT NULL", lambda run: run.tokens),
        Column("turns", "BIGINT NOT NULL", lambda run: run.turn),
        Column("calls", "BIGINT NOT NULL", lambda run: sum(1 for call in run.calls.values() if call.effects)),
        Column("events", "BIGINT NOT NULL", lambda run: run.n),
        Column("wait_s", "DOUBLE NOT NULL", lambda run: run.wait_s),
        Column("cause", "VARCHAR NOT NULL", lambda run: run.sealed.cause if run.sealed else ""),
        Column("why", "VARCHAR NOT NULL", reason),
        Column("stopped_by", "VARCHAR NOT NULL", lambda run: run.stopped.by if run.stopped else ""),
        Column("stop_code", "VARCHAR NOT NULL", lambda run: run.stopped.code if run.stopped else ""),
        Column("task", "VARCHAR", lambda run: as_text(run.opened.task.text if run.opened else None)),
        Column("answer", "VARCHAR", lambda run: as_text(run.sealed.answer if run.sealed else None)),
        Column("first_seq", "BIGINT NOT NULL", lambda run: run.entries[0].seq if run.entries else 0),
        Column("last_seq", "BIGINT NOT NULL", lambda run: run.head_seq),
    ),
)

CALLS: Final = Table[CallSource](
    name="calls",
    key=("tenant", "run", "call"),
    columns=(
        Column("tenant", "VARCHAR NOT NULL", lambda of: of.run.tenant),
        Column("run", "VARCHAR NOT NULL", lambda of: of.run.run),
        Column("call", "VARCHAR NOT NULL", lambda of: of.call.call),
        Column("tool", "VARCHAR NOT NULL", lambda of: of.call.tool),
        Column("tier", "VARCHAR NOT NULL", lambda of: of.call.judged.tier if of.call.judged else ""),
        Column("verdict", "VARCHAR NOT NULL", lambda of: of.call.judged.verdict if of.call.judged else ""),
        Column("stage", "VARCHAR NOT NULL", lambda of: str(of.call.stage)),
        Column("fate", "VARCHAR NOT NULL", lambda of: of.call.fate),
        Column("attempts", "BIGINT NOT NULL", lambda of: len(of.call.effects)),
        Column("effect_key", "VARCHAR NOT NULL", lambda of: of.call.judged.effect_key if of.call.judged else ""),
        Column("args", "VARCHAR", lambda of: as_text(of.call.judged.args if of.call.judged else of.call.raw_args)),
        Column("proposal_n", "BIGINT NOT NULL", lambda of: of.call.proposal_n),
        Column("gate_n", "BIGINT NOT NULL", lambda of: of.call.gate_n),
        Column("cost_micros", "BIGINT NOT NULL", lambda of: sum(a.charged_micros for a in of.call.attempts)),
        Column("started_at", "TIMESTAMP", lambda of: started_at(of.call)),
        Column("finished_at", "TIMESTAMP", lambda of: utc(of.last.at) if of.last else None),
        Column("duration_s", "DOUBLE", duration_s),
        Column("error_type", "VARCHAR NOT NULL", lambda of: of.last.error.type if of.last and of.last.error else ""),
        Column("error", "VARCHAR NOT NULL", lambda of: of.last.error.message if of.last and of.last.error else ""),
        Column("answer_is_error", "BOOLEAN NOT NULL", lambda of: of.call.is_error),
    ),
)

TABLES: Final = (EVENTS, RUNS, CALLS)

META: Final = "name VARCHAR PRIMARY KEY, value BIGINT NOT NULL"
"""The table ``meta``: the version, and the watermark."""
