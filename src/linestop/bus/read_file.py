"""Reading a file that a person named: whole, bounded, and never waiting for what is no file."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_regular(path: Path, bytes_max: int) -> tuple[bytes, os.stat_result]:
    """Read a regular file of at most ``bytes_max`` bytes; return it with what the system says of it.

    A pipe would be waited for, and a device may never end, so neither is read.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger (``EFBIG``).
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        file_stat = os.fstat(descriptor)
        if not stat.S_ISREG(file_stat.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        # Read one byte too many: what a file of the kernel holds is not what it says its size is.
        data = file.read(bytes_max + 1)
    if len(data) > bytes_max:
        raise OSError(errno.EFBIG, f"it has over {bytes_max} bytes", str(path))
    return data, file_stat
