"""Opens files strictly beneath a directory: no ``..``, no symbolic link, no other file system.

On Linux 5.6 and later one ``openat2`` does this, and the kernel guards it against races. Elsewhere the path
is walked component by component with ``O_NOFOLLOW``, each relative to the descriptor of the one before.
Checking the text of the path and then calling ``open`` is not enough: the file may be replaced in between.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys

_SYS_OPENAT2 = 437  # the same number on every architecture that Python runs linestop on
_NO_XDEV = 0x01
_NO_MAGICLINKS = 0x02
_NO_SYMLINKS = 0x04
_BENEATH = 0x08
_TRIES_MAX = 128
"""How often ``openat2`` is called while it fails with EAGAIN, because it cannot rule out a race."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_libc = ctypes.CDLL(None, use_errno=True)


def open_root(path: str | os.PathLike[str]) -> int:
    """Open a directory by its trusted absolute path and return its descriptor."""
    return os.open(path, _DIRECTORY)


def open_beneath(root: int, parts: tuple[str, ...], flags: int) -> int:
    """Open ``parts`` beneath the directory ``root`` and return a descriptor.

    ``parts`` holds plain names only (no ``..``, no slash); empty means the root itself.

    Raises:
        OSError: as ``open`` does; ELOOP for a symbolic link, EXDEV for another file system.
    """
    assert all(part and "/" not in part and part not in {".", ".."} for part in parts)
    if HAS_OPENAT2:
        return _openat2(root, "/".join(parts) or ".", flags)
    return walk_beneath(root, parts, flags)


def walk_beneath(root: int, parts: tuple[str, ...], flags: int) -> int:
    """``open_beneath`` without ``openat2``: opens one component at a time and follows no link."""
    device = os.fstat(root).st_dev
    current = os.dup(root)
    try:
        for index, part in enumerate(parts):
            is_last = index == len(parts) - 1
            mode = flags | os.O_NOFOLLOW | os.O_CLOEXEC if is_last else _DIRECTORY
            child = os.open(part, mode, dir_fd=current)
            os.close(current)
            current = child
            _check_device(current, device)
    except BaseException:
        os.close(current)
        raise
    return current


def _check_device(descriptor: int, device: int) -> None:
    if os.fstat(descriptor).st_dev != device:
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))


def _openat2(root: int, path: str, flags: int) -> int:
    how = _OpenHow(flags | os.O_CLOEXEC, 0, _BENEATH | _NO_SYMLINKS | _NO_MAGICLINKS | _NO_XDEV)
    for _ in range(_TRIES_MAX):
        descriptor: int = _libc.syscall(
            ctypes.c_long(_SYS_OPENAT2),
            ctypes.c_int(root),
            ctypes.c_char_p(os.fsencode(path)),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        if descriptor >= 0:
            return descriptor
        code = ctypes.get_errno()
        if code not in {errno.EAGAIN, errno.EINTR}:
            raise OSError(code, os.strerror(code), path)
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)


def _has_openat2() -> bool:
    """Whether the kernel has ``openat2`` and no filter forbids it (ENOSYS and EPERM, respectively)."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        root = open_root("/")
    except OSError:
        return False
    try:
        os.close(_openat2(root, ".", os.O_RDONLY | os.O_DIRECTORY))
    except OSError:
        return False
    finally:
        os.close(root)
    return True


HAS_OPENAT2 = _has_openat2()
