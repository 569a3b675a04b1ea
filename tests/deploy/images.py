"""Builds the images of the containers on this machine, without an image registry.

``python`` is the interpreter that runs the tests with its standard library, pip and the shared libraries they
need, laid out as in the official image; ``nats`` is the server of the wheel with busybox for its health check.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from tests.deploy.engine import Engine, EngineMissing, run

from linestop.bus.server.process import server_program

ROOT: Final = Path(__file__).parents[2]
PYTHON_IMAGE: Final = "linestop-test/python:1"
NATS_IMAGE: Final = "linestop-test/nats:1"
LINESTOP_IMAGE: Final = "linestop-test/linestop:1"
EXCLUDED: Final = {
    "__pycache__",
    "site-packages",
    "dist-packages",
    "test",
    "idlelib",
    "tkinter",
    "turtledemo",
    "config",
}
LOADED_LATER: Final = ("libstdc++.so.6", "libgcc_s.so.1", "libdl.so.2", "libpthread.so.0", "librt.so.1")
"""The libraries that modules of wheels need in addition to those of the interpreter."""

BUILD_TIMEOUT_S: Final = 180.0


def make_images(engine: Engine, folder: Path) -> None:
    """Build all three images in ``engine``; ``folder`` is for intermediate files.

    Raises:
        EngineMissing: if busybox, which the health check of the server needs, is not installed.
    """
    busybox = shutil.which("busybox")
    if busybox is None:
        raise EngineMissing("The image of the server needs busybox-static.")
    _import(engine, _python_files(), folder / "python.tar", PYTHON_IMAGE)
    nats = {"usr/local/bin/nats-server": server_program()} | {f"bin/{name}": Path(busybox) for name in ("sh", "wget")}
    _import(engine, nats, folder / "nats.tar", NATS_IMAGE)
    context = folder / "context"
    _copy_context(context)
    for lock in ("requirements.lock", "deploy/requirements-build.lock"):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--require-hashes", "--only-binary", ":all:", "--dest", str(context / "deploy" / "wheels")]
        run([*command, "-r", str(ROOT / lock)], environ=dict(os.environ), timeout_s=BUILD_TIMEOUT_S)
    build_args = (f"PYTHON_IMAGE={PYTHON_IMAGE}", "PIP_NO_INDEX=1", "PIP_FIND_LINKS=/wheels")
    words = [word for argument in build_args for word in ("--build-arg", argument)]
    # A build without any network proves that it needs none.
    engine.docker(
        "build", "-q", "--network", "none", *words, "-t", LINESTOP_IMAGE, str(context), timeout_s=BUILD_TIMEOUT_S
    )


def _copy_context(context: Path) -> None:
    """Copy the files that the Dockerfile copies, so that wheels can be added without changing the tree."""
    for name in (
        "Dockerfile",
        ".dockerignore",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "requirements.lock",
        "deploy",
        "src",
    ):
        source = ROOT / name
        target = context / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "*.whl"))
        else:
            shutil.copy(source, target)


def _python_files() -> dict[str, Path]:
    """The files of the interpreter in ``/usr/local``, by path in the image."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    program = Path(os.path.realpath(sys.executable))
    library = Path(sysconfig.get_path("stdlib"))
    files = {f"usr/local/bin/{name}": program for name in ("python", "python3", version)}
    target = f"usr/local/lib/{version}"
    files |= {f"{target}/{path.relative_to(library)}": path for path in _tree(library)}
    pip = find_spec("pip")
    assert pip is not None
    assert pip.origin is not None
    folder = Path(pip.origin).parent
    files |= {f"{target}/site-packages/pip/{path.relative_to(folder)}": path for path in _tree(folder)}
    modules = [path for path in files.values() if ".so" in path.suffixes]
    libraries = _libraries([program, *modules])
    return files | {str(path).lstrip("/"): path for path in libraries}


def _tree(folder: Path) -> list[Path]:
    return [
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(p in EXCLUDED or p.startswith("config-") for p in path.relative_to(folder).parts)
    ]


def _libraries(programs: list[Path]) -> set[Path]:
    """The shared libraries that these files and the modules of wheels need, at the loader's paths."""
    done = subprocess.run(["ldd", *map(str, programs)], capture_output=True, text=True, check=False)
    linked = {Path(path) for path in re.findall(r"(?:=>\s+|^\s+)(/\S+) \(0x", done.stdout, re.MULTILINE)}
    cache = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    known = dict(re.findall(r"^\s+(\S+) \([^)]*\) => (\S+)$", cache, re.MULTILINE))
    return linked | {Path(known[name]) for name in LOADED_LATER if name in known}


def _import(engine: Engine, files: dict[str, Path], archive: Path, tag: str) -> None:
    """Create an image of one layer with these files."""
    with tarfile.open(archive, "w") as tar:
        # A tmpfs gets the mode of the folder that it covers.
        for name, mode in (("tmp", 0o1777), ("etc", 0o755)):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, mode
            tar.addfile(folder)
        for name, path in sorted(files.items()):
            entry = tar.gettarinfo(str(path.resolve()), name)
            entry.type, entry.linkname, entry.size = tarfile.REGTYPE, "", path.stat().st_size
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            with path.open("rb") as content:
                tar.addfile(entry, content)
    engine.docker("import", str(archive), tag)
