"""The files of a run, attacked."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from linestop.sandbox.files import safe_paths
from linestop.sandbox.files.workspace import Entry, Workspace, WorkspaceLimits
from linestop.sandbox.tools.failures import WorkspaceError

SECRET = b"the secret of another run"


@pytest.fixture(params=["openat2", "walk"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run every test with and without ``openat2``; with it only where the kernel has it."""
    way = str(request.param)
    if way == "openat2" and not safe_paths.HAS_OPENAT2:
        pytest.skip("this kernel has no openat2")
    monkeypatch.setattr(safe_paths, "HAS_OPENAT2", way == "openat2")
    return way


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    """A workspace run-1 beside another one, run-10, that holds a secret."""
    work = Workspace.create(tmp_path, "acme", "run-1")
    other = Workspace.create(tmp_path, "acme", "run-10")
    other.write("secret", SECRET)
    return work


def refused(work: Workspace, path: str) -> str:
    """The sentence by which reading is refused."""
    with pytest.raises(WorkspaceError) as caught:
        work.read(path)
    assert SECRET.decode() not in str(caught.value)
    return str(caught.value)


def test_what_was_written_is_read_listed_and_deleted(work: Workspace) -> None:
    """The four operations agree, and missing directories are created."""
    work.write("notes/a.txt", b"one")
    work.write("notes/a.txt", b"two!")
    assert work.read("notes/a.txt") == b"two!"
    assert work.read("notes/../notes/./a.txt") == b"two!"
    assert work.list() == (Entry(name="notes", kind="directory"),)
    assert work.list("notes") == (Entry(name="a.txt", kind="file", size_bytes=4),)
    work.delete("notes/a.txt")
    work.delete("notes")
    assert work.list() == ()


@pytest.mark.parametrize(
    "path",
    [
        "..",
        "../run-10/secret",
        "a/../../run-10/secret",
        "/etc/passwd",
        "//etc/passwd",
        "ok/",
        "",
        "a\0b",
        "new\nline",
        "esc\x1b[2J",
        "half\ud800",
        "n" * 300,
        "d/" * 17 + "f",
        "x" * 2_000,
        ".linestop-0",
    ],
)
def test_a_path_that_could_leave_the_workspace_is_refused_by_every_operation(work: Workspace, path: str) -> None:
    """Nothing is read, written, listed or deleted by such a path, and the message can be printed."""
    operations: tuple[Callable[[str], object], ...] = (
        work.read,
        work.list,
        work.delete,
        lambda path: work.write(path, b"x"),
    )
    for operation in operations:
        with pytest.raises(WorkspaceError) as caught:
            operation(path)
        assert str(caught.value).isprintable()
    assert list(work.root.iterdir()) == []
    assert (work.root.parent / "run-10" / "secret").read_bytes() == SECRET


@pytest.mark.parametrize("path", ["proc", "up", "out", "inside", "dir/secret", "loop"])
def test_no_symbolic_link_is_followed(work: Workspace, path: str) -> None:
    """Links out, links within, links to directories and links to themselves are all refused."""
    work.write("file", b"x")
    (work.root / "proc").symlink_to("/proc/self/environ")
    (work.root / "up").symlink_to("../run-10/secret")
    (work.root / "out").symlink_to(work.root.parent / "run-10" / "secret")
    (work.root / "inside").symlink_to("file")
    (work.root / "dir").symlink_to("../run-10")
    (work.root / "loop").symlink_to("loop")
    assert "symbolic link" in refused(work, path) or "not a directory" in refused(work, path)


def test_a_magic_link_is_not_followed() -> None:
    """With a process's directory as the root, its links to root and to files are refused."""
    for path in ("root/etc/passwd", "cwd", "exe"):
        refused(Workspace(Path(f"/proc/{os.getpid()}")), path)


def test_writing_replaces_a_planted_link_and_not_its_target(work: Workspace) -> None:
    """The link becomes a new file, and its target is untouched."""
    target = work.root.parent / "run-10" / "secret"
    (work.root / "report").symlink_to(target)
    work.write("report", b"mine")
    assert target.read_bytes() == SECRET
    assert work.read("report") == b"mine"


def test_writing_through_a_planted_directory_link_is_refused(work: Workspace) -> None:
    """A linked directory is refused too, for writing, listing and deleting."""
    (work.root / "dir").symlink_to("../run-10")
    for operation in (lambda: work.write("dir/new", b"x"), lambda: work.list("dir"), lambda: work.delete("dir/secret")):
        with pytest.raises(WorkspaceError):
            operation()
    assert [path.name for path in (work.root.parent / "run-10").iterdir()] == ["secret"]


def test_deleting_a_link_deletes_the_link(work: Workspace) -> None:
    """Its target stays."""
    (work.root / "up").symlink_to("../run-10/secret")
    work.delete("up")
    assert (work.root.parent / "run-10" / "secret").read_bytes() == SECRET
    assert work.list() == ()


def test_a_hard_link_to_another_file_is_refused(work: Workspace) -> None:
    """A file with a second name may belong to another user."""
    os.link(work.root.parent / "run-10" / "secret", work.root / "hard")
    assert "hard link" in refused(work, "hard")
    assert work.list() == (Entry(name="hard", kind="other"),)


def test_a_fifo_a_socket_and_a_device_are_refused_at_once(work: Workspace) -> None:
    """A FIFO without a writer does not block the reader."""
    os.mkfifo(work.root / "fifo")
    assert "not a regular file" in refused(work, "fifo")
    here = os.open(work.root, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(f"/proc/self/fd/{here}/sock")
            assert "not a regular file" in refused(work, "sock")
    finally:
        os.close(here)
    if os.geteuid() == 0:
        os.mknod(work.root / "null", 0o20600, os.makedev(1, 3))
        assert "not a regular file" in refused(work, "null")


def test_a_directory_is_not_a_file(work: Workspace) -> None:
    """Reading a directory is refused, and so is overwriting it."""
    work.write("d/f", b"x")
    assert "is a directory" in refused(work, "d")
    with pytest.raises(WorkspaceError, match="is a directory"):
        work.write("d", b"x")
    with pytest.raises(WorkspaceError, match="not a directory"):
        work.write("d/f/g", b"x")
    with pytest.raises(WorkspaceError, match="not empty"):
        work.delete("d")
    assert sorted(entry.name for entry in work.list("d")) == ["f"]


def test_another_file_system_is_refused() -> None:
    """A mount inside the workspace does not belong to it."""
    if not os.path.ismount("/proc"):
        pytest.skip("/proc is not a mount here")
    refused(Workspace(Path("/")), "proc/version")


def test_a_huge_sparse_file_is_refused_by_its_size(work: Workspace) -> None:
    """It is not read into memory first."""
    with (work.root / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    assert "at most 8388608 bytes" in refused(work, "sparse")


def test_each_limit_trips(tmp_path: Path) -> None:
    """File size, total size and number of entries are bounded; overwriting counts once."""
    limits = WorkspaceLimits(file_bytes_max=10, total_bytes_max=25, entries_max=4)
    work = Workspace.create(tmp_path, "acme", "run-2", limits=limits)
    with pytest.raises(WorkspaceError, match="at most 10 bytes"):
        work.write("a", b"x" * 11)
    work.write("a", b"x" * 10)
    work.write("b", b"x" * 10)
    work.write("b", b"y" * 10)
    with pytest.raises(WorkspaceError, match="do not fit into 25"):
        work.write("c", b"x" * 10)
    work.write("c", b"")
    work.write("d", b"")
    with pytest.raises(WorkspaceError, match="at most 4"):
        work.write("e", b"")
    work.write("d", b"z")
    for index in range(10):
        (work.root / f"planted{index}").touch()
    assert len(work.list()) == 4


def test_look_alikes_of_dots_and_slashes_are_ordinary_names(work: Workspace) -> None:
    """Characters that only look like dots and slashes cause no traversal."""
    for name in ("\uff0e\uff0e\u2215secret", "..\\secret", "\u202egnp.exe"):
        work.write(name, b"x")
        assert work.read(name) == b"x"
    assert all(entry.name.isprintable() for entry in work.list())


def test_only_plain_names_name_a_workspace(tmp_path: Path) -> None:
    """Tenant and run are names, not paths."""
    for name in ("..", "a/b", "", "A", "-x", "x" * 64):
        with pytest.raises(WorkspaceError):
            Workspace.create(tmp_path, "acme", name)
        with pytest.raises(WorkspaceError):
            Workspace.create(tmp_path, name, "run-1")


def test_a_missing_workspace_is_reported(tmp_path: Path) -> None:
    """The sentence is about the workspace, not about the path in it."""
    assert "workspace of this run" in refused(Workspace(tmp_path / "gone"), "a")


def test_no_race_leaks(work: Workspace) -> None:
    """While a directory and a link to another run's directory are swapped, no read reaches the other run."""
    mine, link, here = work.root / "mine", work.root / "link", work.root / "here"
    mine.mkdir()
    (mine / "secret").write_bytes(b"mine")
    link.symlink_to("../run-10")
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            for source in (mine, link):
                source.rename(here)
                here.rename(source)

    swapping = threading.Thread(target=swap)
    swapping.start()
    seen: dict[str, int] = {}
    try:
        for turn in range(200_000):
            if turn >= 6_000 and len(seen) > 1 and "mine" in seen:
                break
            try:
                what = work.read("here/secret").decode()
            except WorkspaceError as error:
                what = str(error)
            seen[what] = seen.get(what, 0) + 1
    finally:
        done.set()
        swapping.join()
    assert SECRET.decode() not in seen
    # Both sides of the race occurred.
    assert seen.get("mine"), seen
    assert any("symbolic link" in what or "not a directory" in what for what in seen), seen


def test_no_descriptor_is_left_open(work: Workspace) -> None:
    """Neither success nor refusal leaks a descriptor."""
    work.write("a", b"x")
    os.mkfifo(work.root / "fifo")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        work.read("a")
        work.write("d/b", b"y")
        work.list("d")
        work.delete("d/b")
        for path in ("nope", "fifo", "d", "../x", "a/b"):
            refused(work, path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
