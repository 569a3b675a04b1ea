"""Report by the exit code whether this host's worker is healthy; a container's health check runs this.

It imports next to nothing, because starting all of linestop for each check costs nearly a second of a core. A worker
marks its file every 5 s as long as its event loop turns. ``linestop health`` reports the same and more, for people.

Usage: ``python -I -S health.py [ROLE]``, with the state folder in ``LINESTOP_DIR``. ROLE is a role that the worker has,
alone or among others; without it any worker of this host will do. Workers of other hosts may share the folder, as
recorders share the archive's: how they are does not make this container unhealthy.
"""  # noqa: INP001 - a script, run in a container

import fcntl
import json
import os
import socket
import sys
import time

LATE_S = 30.0
CONNECT_S = 3.0


def worker_is_alive(folder: str, role: str) -> str:
    """Return why this host's worker with the role, or with any role, is not healthy, or an empty text."""
    for name in os.listdir(folder):  # noqa: PTH208 - pathlib costs as much as all else
        if not (name.startswith("worker-") and name.endswith(".lock")):
            continue
        with open(os.path.join(folder, name), encoding="utf-8") as file:  # noqa: PTH118, PTH123 - as above
            _process_id, host, *roles = (*file.read().split(), "", "")
            if host != socket.gethostname() or (role and role not in roles):
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                late_s = time.time() - os.fstat(file.fileno()).st_mtime
                return f"The worker in {name} has not responded for {late_s:.0f} s." if late_s > LATE_S else ""
    return f"No worker with the role {role} runs here." if role else "No worker runs here."


def broker_answers(folder: str, role: str) -> str:
    """Return why the broker is not healthy, or an empty text: a healthy one greets every client."""
    credentials = os.path.join(folder, "credentials")  # noqa: PTH118 - as above
    name = f"{role}.json" if role else next(name for name in os.listdir(credentials) if name.endswith(".json"))  # noqa: PTH208 - as above
    with open(os.path.join(credentials, name), "rb") as file:  # noqa: PTH118, PTH123 - as above
        addresses = os.environ.get("LINESTOP_NATS") or json.load(file)["url"]
    problem = "The credential names no broker."
    for address in addresses.split(","):
        host, _, port = address.strip().rpartition("//")[2].rpartition("@")[2].rpartition(":")
        try:
            with socket.create_connection((host.strip("[]"), int(port or 4222)), CONNECT_S) as connection:
                if connection.recv(5).startswith(b"INFO"):
                    return ""
            problem = f"What listens at {host}:{port} is not a NATS server."
        except (OSError, ValueError) as error:
            problem = f"The broker at {host}:{port} does not answer: {error}."
    return problem


if __name__ == "__main__":
    state = os.environ.get("LINESTOP_DIR") or ".linestop"
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    wrong = worker_is_alive(state, wanted) or broker_answers(state, wanted)
    print(wrong or "well")
    sys.exit(1 if wrong else 0)
