"""Make the folders that volumes are mounted on, below the folder given; the Dockerfile copies them.

``/state`` is what a process may write; ``/volumes`` is where ``setup`` sees the volume of each service.
"""  # noqa: INP001 - a script, run by the Dockerfile

from __future__ import annotations

import sys
from pathlib import Path

VOLUMES = ("planner", "executor", "gates", "people", "nats", "jetstream")

for folder in ("state/credentials", "state/workspaces", "project", *(f"volumes/{name}" for name in VOLUMES)):
    path = Path(sys.argv[1], folder)
    path.mkdir(parents=True)
    path.chmod(0o755 if folder == "project" else 0o700)
