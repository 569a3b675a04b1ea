"""Reads a file that a person named: with a limit, and without waiting for a pipe or a device."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_regular(path: Path, bytes_max: int) -> tuple[bytes, os.stat_result]:
    """Read a regular file of at most ``bytes_max`` bytes; return its bytes and its status.

    Neither a pipe, which would block, nor a device, which may never end, is read.

    Raises:
        OSError: the file cannot be read, is not a regular file, or is larger (``EFBIG``).
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        file_stat = os.fstat(descriptor)
        if not stat.S_ISREG(file_stat.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        # Read one byte more: files of the kernel report another size than they have.
        data = file.read(bytes_max + 1)
    if len(data) > bytes_max:
        raise OSError(errno.EFBIG, f"it has over {bytes_max} bytes", str(path))
    return data, file_stat
