"""A worker's name: locked by one process at a time, and given a new number each time a process locks it.

``worker`` in an event is ``<name>#<incarnation>``. The process that has locked a name may take over the starts that an
older incarnation left open without waiting for the end of their time, so two processes must never have the same
name at once:

- a lock on a file of the state folder, which the operating system releases however the process dies;
- a counter in the bucket ``workers``, moved on by compare-and-set, so that no number is given twice. It begins
  after the number that an older linestop stored in the bucket ``shared``.

The lock reaches as far as the state folder. Hosts that do not share one need names that differ, which is why
the default name contains the host's: whole if it is short enough, else its beginning and a digest of all of it.

The file of the lock says who holds it, in one line: process id, host, roles. ``deploy/health.py`` reads it, too.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import socket
from collections.abc import Collection, Generator
from pathlib import Path
from typing import Final

from linestop.bus.interfaces import Bucket, BucketValue
from linestop.bus.streams.stream_names import SHARED_BUCKET, WORKERS_BUCKET
from linestop.errors import ConfigError, Conflict
from linestop.schemas.subjects import ACTORS, RoleName, check_name

NAMES_MAX: Final = 100
"""Most workers of one kind that may share a host and a state folder without names of their own."""

HOST_CHARS_MAX: Final = 40
KIND_CHARS_MAX: Final = 59
"""A name has at most 63 characters, of which ``-100`` numbers workers of one kind."""

_DIGEST_CHARS: Final = 8
TRIES_MAX: Final = 10
_NOT_IN_NAMES = re.compile("[^a-z0-9-]+")


class WorkerLock:
    """A locked name; what a process writes into the file of the lock is for health checks."""

    def __init__(self, name: str, path: Path, descriptor: int) -> None:
        self.name = name
        self.path = path
        self._descriptor = descriptor

    def touch(self) -> None:
        """Set the file's time, which shows that the event loop still runs."""
        os.utime(self._descriptor)

    def record_roles(self, roles: Collection[RoleName]) -> None:
        """Write down which roles this process has."""
        line = " ".join((str(os.getpid()), socket.gethostname(), *roles))
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, line.encode(), 0)

    def close(self) -> None:
        """Release the lock."""
        os.close(self._descriptor)


def lock_path(directory: Path, name: str) -> Path:
    """Return the path of the lock file for ``name`` in a state folder."""
    return directory / f"worker-{name}.lock"


def host_name() -> str:
    """Return this host's name in the form that a worker's name allows."""
    name = _NOT_IN_NAMES.sub("-", socket.gethostname().lower().partition(".")[0]).strip("-")
    return _shorten(name, HOST_CHARS_MAX) or "host"


def default_name(roles: Collection[RoleName]) -> str:
    """Return the name of a worker that was given none: ``<host>-<role>-<role>…``, and ``<host>`` if it has all roles.

    The roles come in the order of ``ACTORS``, so their order on a command line makes no difference.
    """
    if set(roles) == set(ACTORS):
        return host_name()
    suffix = "".join(f"-{role}" for role in ACTORS if role in roles)
    return _shorten(host_name(), KIND_CHARS_MAX - len(suffix)) + suffix


@contextlib.contextmanager
def lock_name(directory: Path, name: str) -> Generator[WorkerLock]:
    """Lock exactly this name while the block runs.

    Raises:
        ConfigError: if another process has locked it.
        InputError: if it is not a name.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = _try_lock(directory, check_name("worker", name))
    if lock is None:
        holder = lock_path(directory, name).read_text(encoding="utf-8").partition(" ")[0] or "unknown"
        raise ConfigError(f"The worker name {name} is held by process {holder}: stop it, or choose another name.")
    with contextlib.closing(lock):
        yield lock


@contextlib.contextmanager
def lock_free_name(directory: Path, kind: str) -> Generator[WorkerLock]:
    """Lock the first free name of ``<kind>``, ``<kind>-2``, ``<kind>-3`` … while the block runs.

    The lowest is taken, so that a process that replaces a killed one gets its name and its open starts.

    Raises:
        ConfigError: if all are locked.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for number in range(1, NAMES_MAX + 1):
        name = check_name("worker", kind if number == 1 else f"{kind}-{number}")
        lock = _try_lock(directory, name)
        if lock is not None:
            with contextlib.closing(lock):
                yield lock
            return
    raise ConfigError(f"{NAMES_MAX} workers called {kind} run already: give this one a name of its own.")


def is_locked(directory: Path, name: str) -> bool:
    """Whether a process has locked the name at this moment."""
    if not lock_path(directory, name).exists():
        return False
    lock = _try_lock(directory, name)
    if lock is None:
        return True
    lock.close()
    return False


def locked_names(directory: Path, role: RoleName) -> list[str]:
    """Return the names that processes of this host with ``role``, alone or among others, have locked at this moment."""
    names: list[str] = []
    for path in sorted(directory.glob("worker-*.lock")):
        name = path.stem.removeprefix("worker-")
        words = path.read_text(encoding="utf-8").split()
        if words[1:2] == [socket.gethostname()] and role in words[2:] and is_locked(directory, name):
            names.append(name)
    return names


async def next_incarnation(workers: Bucket, name: str, *, older: Bucket) -> str:
    """Give this process the next number of ``name``; return ``<name>#<incarnation>``. Call it with the name locked.

    Args:
        workers: The bucket ``workers``.
        name: The locked name.
        older: The bucket ``shared``, where an older linestop stored the counter.

    Raises:
        ConfigError: if a counter is not a number.
        Conflict: if another process keeps moving the counter, so that the name is used twice.
    """
    for _ in range(TRIES_MAX):
        value = await workers.get(name)
        number = 1 + (
            _last_number(value, WORKERS_BUCKET) or _last_number(await older.get(f"worker.{name}"), SHARED_BUCKET)
        )
        try:
            if value is None:
                await workers.create(name, b"%d" % number)
            else:
                await workers.update(name, b"%d" % number, revision=value.revision)
        except Conflict:
            continue
        return f"{name}#{number}"
    raise Conflict(f"The worker name {name} is taken by several processes at once: give each its own.")


def _last_number(value: BucketValue | None, bucket: str) -> int:
    """Return the number that was given last, 0 if none was."""
    if value is None or not value.value:
        return 0
    try:
        return int(value.value)
    except ValueError:
        raise ConfigError(f"Key {value.key} of the bucket `{bucket}` is not a number: delete it.") from None


def _shorten(host: str, chars_max: int) -> str:
    """Return the host's name, or if it is too long its beginning and a digest, so that two hosts still differ."""
    if len(host) <= chars_max:
        return host
    digest = hashlib.sha256(host.encode()).hexdigest()[:_DIGEST_CHARS]
    return f"{host[: chars_max - _DIGEST_CHARS - 1]}-{digest}"


def _try_lock(directory: Path, name: str) -> WorkerLock | None:
    path = lock_path(directory, name)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
            raise ConfigError(f"{path} cannot be locked ({error.strerror}): is it on a network drive?") from None
        return None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return WorkerLock(name, path, descriptor)
