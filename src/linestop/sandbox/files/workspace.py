"""The files of one run: a directory that its tools cannot leave.

Paths come from a model, so the kernel keeps them beneath the directory (``safe_paths``), not a check of their
text. Only regular files with a single name are read: symbolic links, hard links, FIFOs and devices are refused.
Writing replaces a whole file in one step.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import unicodedata
from pathlib import Path
from typing import Literal

import msgspec

from linestop.sandbox.files.safe_paths import open_beneath, open_root
from linestop.sandbox.tools.failures import WorkspaceError
from linestop.schemas.defaults import (
    WORKSPACE_BYTES_MAX,
    WORKSPACE_ENTRIES_MAX,
    WORKSPACE_FILE_BYTES_MAX,
    WORKSPACE_PATH_CHARS_MAX,
)

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_NAME_BYTES_MAX = 255
_DEPTH_MAX = 16
_SHOWN_CHARS_MAX = 80
_TEMPORARY_PREFIX = ".linestop-"
_REASONS = {
    errno.ENOENT: "does not exist",
    errno.ELOOP: "is or passes through a symbolic link, which is refused",
    errno.EXDEV: "leaves the workspace, which is refused",
    errno.ENOTDIR: "passes through something that is not a directory",
    errno.EISDIR: "is a directory, not a file",
    errno.ENOTEMPTY: "is a directory that is not empty",
    errno.ENXIO: "is not a regular file",
    errno.EAGAIN: "is being changed by another process at this moment",
}


class WorkspaceLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one workspace: bytes per file, bytes in total, entries in total."""

    file_bytes_max: int = WORKSPACE_FILE_BYTES_MAX
    total_bytes_max: int = WORKSPACE_BYTES_MAX
    entries_max: int = WORKSPACE_ENTRIES_MAX


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a directory. ``other`` is anything that cannot be read: a link, a FIFO, a device."""

    name: str
    kind: Literal["file", "directory", "other"]
    size_bytes: int = 0


class Workspace:
    """The directory of one run. Holds no descriptor, so it needs no closing."""

    def __init__(self, root: Path, limits: WorkspaceLimits | None = None) -> None:
        self.root = root
        self.limits = limits or WorkspaceLimits()

    def __repr__(self) -> str:
        return f"Workspace({str(self.root)!r})"

    @classmethod
    def create(cls, base: Path, tenant: str, run: str, *, limits: WorkspaceLimits | None = None) -> Workspace:
        """Create the directory ``base/tenant/run`` (mode 0700) if it does not exist, and return its workspace.

        Raises:
            WorkspaceError: if tenant or run is not a plain name.
        """
        for name in (tenant, run):
            if not _NAME.fullmatch(name):
                raise WorkspaceError(f"{_quoted(name)} cannot name a workspace; use [a-z0-9-], at most 63")
        root = base / tenant / run
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return cls(root, limits)

    def remove_if_empty(self) -> None:
        """Remove the directory if it is empty; the next call, or the next ``write``, creates it again."""
        with contextlib.suppress(OSError):
            self.root.rmdir()

    def read(self, path: str) -> bytes:
        """Return the whole content of a regular file.

        Raises:
            WorkspaceError: if no such file is beneath the workspace, or it is over ``file_bytes_max``.
        """
        parts = _parts(path)
        bytes_max = self.limits.file_bytes_max
        with _Root(self.root, path) as root:
            # O_NONBLOCK: opening a FIFO would otherwise wait for a writer without end.
            descriptor = open_beneath(root, parts, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
            try:
                file_status = os.fstat(descriptor)
                if stat.S_ISDIR(file_status.st_mode):
                    raise IsADirectoryError(errno.EISDIR, path)
                if not stat.S_ISREG(file_status.st_mode):
                    raise OSError(errno.ENXIO, path)
                if file_status.st_nlink != 1:
                    raise WorkspaceError(f"{_quoted(path)} has a second name (hard link), which is refused")
                if file_status.st_size > bytes_max:
                    raise WorkspaceError(_too_large_sentence(path, file_status.st_size, bytes_max))
                # The file may have grown since fstat, so reading is limited too.
                data = _read_up_to(descriptor, bytes_max + 1)
            finally:
                os.close(descriptor)
        if len(data) > bytes_max:
            raise WorkspaceError(_too_large_sentence(path, len(data), bytes_max))
        return data

    def write(self, path: str, data: bytes) -> None:
        """Write a file, replacing one of that name in one step; missing directories are created.

        Raises:
            WorkspaceError: for a bad path, or if a limit of the workspace would be exceeded.
        """
        parts = _parts(path)
        if not parts:
            raise WorkspaceError(f"{_quoted(path)} is the workspace itself, not a file in it")
        if len(data) > self.limits.file_bytes_max:
            raise WorkspaceError(_too_large_sentence(path, len(data), self.limits.file_bytes_max))
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _Root(self.root, path) as root:
            self._check_room(root, parts, len(data))
            parent = _make_parents(root, parts[:-1])
            try:
                _replace(parent, parts[-1], data)
            finally:
                os.close(parent)

    def list(self, path: str = ".") -> tuple[Entry, ...]:
        """Return the entries of a directory by name, at most ``entries_max``; links are not followed."""
        parts = _parts(path)
        with _Root(self.root, path) as root:
            directory = open_beneath(root, parts, os.O_RDONLY | os.O_DIRECTORY)
            try:
                names = _names(directory, self.limits.entries_max)
                found = [_entry(directory, name) for name in names if not name.startswith(_TEMPORARY_PREFIX)]
            finally:
                os.close(directory)
        return tuple(sorted((entry for entry in found if entry is not None), key=lambda entry: entry.name))

    def delete(self, path: str) -> None:
        """Delete a file, an empty directory, or a link (never its target)."""
        parts = _parts(path)
        if not parts:
            raise WorkspaceError(f"{_quoted(path)} is the workspace itself and cannot be deleted")
        with _Root(self.root, path) as root:
            parent = open_beneath(root, parts[:-1], os.O_RDONLY | os.O_DIRECTORY)
            try:
                file_status = os.stat(parts[-1], dir_fd=parent, follow_symlinks=False)
                if stat.S_ISDIR(file_status.st_mode):
                    os.rmdir(parts[-1], dir_fd=parent)
                else:
                    os.unlink(parts[-1], dir_fd=parent)
            finally:
                os.close(parent)

    def _check_room(self, root: int, parts: tuple[str, ...], size: int) -> None:
        entries, total = _usage(root, self.limits.entries_max)
        before = _size_beneath(root, parts)
        if before is None and entries + len(parts) > self.limits.entries_max:
            raise WorkspaceError(
                f"the workspace holds {entries} entries; at most {self.limits.entries_max}: delete some"
            )
        if total - (before or 0) + size > self.limits.total_bytes_max:
            raise WorkspaceError(
                f"the workspace holds {total} bytes and {size} more do not fit into "
                f"{self.limits.total_bytes_max}: delete some files"
            )


class _Root:
    """The root directory, open for one operation; turns OSError into one sentence about ``path``."""

    def __init__(self, root: Path, path: str) -> None:
        self._root = root
        self._path = path
        self._descriptor = -1

    def __enter__(self) -> int:
        try:
            self._descriptor = open_root(self._root)
        except OSError as error:
            raise WorkspaceError(f"the workspace of this run cannot be opened ({error.strerror})") from None
        return self._descriptor

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        os.close(self._descriptor)
        if isinstance(error, OSError):
            reason = _REASONS.get(error.errno or 0) or f"cannot be used ({os.strerror(error.errno or 0)})"
            raise WorkspaceError(f"{_quoted(self._path)} {reason}") from None


def _parts(path: str) -> tuple[str, ...]:
    """Check a path's text and split it into plain names."""
    if not path or len(path) > WORKSPACE_PATH_CHARS_MAX:
        raise WorkspaceError(f"a path has 1 to {WORKSPACE_PATH_CHARS_MAX} characters; this one has {len(path)}")
    if path.startswith("/"):
        raise WorkspaceError(f"{_quoted(path)} is absolute; name it relative to the workspace")
    if path.endswith("/"):
        raise WorkspaceError(f"{_quoted(path)} ends in a slash; name the file or directory without it")
    if any(unicodedata.category(c) in {"Cc", "Cs"} for c in path):
        raise WorkspaceError(f"{_quoted(path)} holds control characters; leave them out")
    parts = _resolve(path)
    if len(parts) > _DEPTH_MAX:
        raise WorkspaceError(f"{_quoted(path)} is {len(parts)} levels deep; at most {_DEPTH_MAX}")
    for part in parts:
        if len(part.encode()) > _NAME_BYTES_MAX:
            raise WorkspaceError(f"{_quoted(part)} is too long a name; at most {_NAME_BYTES_MAX} bytes")
        if part.startswith(_TEMPORARY_PREFIX):
            raise WorkspaceError(f"names beginning with {_TEMPORARY_PREFIX} are linestop's own; choose another name")
    return parts


def _resolve(path: str) -> tuple[str, ...]:
    """Split at slashes and resolve ``.`` and ``..``; without links that needs only the text."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            if not parts:
                raise WorkspaceError(f"{_quoted(path)} leaves the workspace, which is refused")
            parts.pop()
        elif part not in {"", "."}:
            parts.append(part)
    return tuple(parts)


def _read_up_to(descriptor: int, bytes_max: int) -> bytes:
    chunks: list[bytes] = []
    left = bytes_max
    while left > 0 and (chunk := os.read(descriptor, min(left, 1 << 20))):
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)


def _make_parents(root: int, parts: tuple[str, ...]) -> int:
    """Create the missing directories of ``parts`` and return a descriptor of the last one."""
    for depth in range(len(parts)):
        parent = open_beneath(root, parts[:depth], os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.mkdir(parts[depth], 0o700, dir_fd=parent)
        except FileExistsError:
            pass
        finally:
            os.close(parent)
    return open_beneath(root, parts, os.O_RDONLY | os.O_DIRECTORY)


def _replace(parent: int, name: str, data: bytes) -> None:
    """Write beside and rename over: a reader sees the old or the new file, and a planted link is replaced."""
    temporary = _TEMPORARY_PREFIX + secrets.token_hex(8)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600, dir_fd=parent)
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
        finally:
            os.close(descriptor)
        os.replace(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
    except BaseException:
        os.unlink(temporary, dir_fd=parent)
        raise


def _names(directory: int, names_max: int) -> list[str]:
    with os.scandir(directory) as found:
        return [entry.name for entry, _ in zip(found, range(names_max), strict=False)]


def _entry(directory: int, name: str) -> Entry | None:
    try:
        file_status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return None
    shown = "".join(c if c.isprintable() else "?" for c in name)
    if stat.S_ISREG(file_status.st_mode) and file_status.st_nlink == 1:
        return Entry(name=shown, kind="file", size_bytes=file_status.st_size)
    return Entry(name=shown, kind="directory" if stat.S_ISDIR(file_status.st_mode) else "other")


def _size_beneath(root: int, parts: tuple[str, ...]) -> int | None:
    try:
        parent = open_beneath(root, parts[:-1], os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return None
    try:
        return os.stat(parts[-1], dir_fd=parent, follow_symlinks=False).st_size
    except OSError:
        return None
    finally:
        os.close(parent)


def _usage(root: int, entries_max: int) -> tuple[int, int]:
    """Count entries and bytes without following links; stop counting just above ``entries_max``."""
    entries = total = 0
    for _, directories, files, descriptor in os.fwalk(".", dir_fd=root, follow_symlinks=False):
        entries += len(directories) + len(files)
        if entries > entries_max:
            break
        for name in files:
            total += os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_size
    return entries, total


def _too_large_sentence(path: str, size: int, bytes_max: int) -> str:
    return f"{_quoted(path)} has {size} bytes; at most {bytes_max} bytes a file: split it"


def _quoted(text: str) -> str:
    clean = "".join(c if c.isprintable() else "?" for c in text)
    return repr(clean if len(clean) <= _SHOWN_CHARS_MAX else clean[:_SHOWN_CHARS_MAX] + "…")
