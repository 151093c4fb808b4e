"""Locks: who has them, what their files leave, and file systems without any."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from storing import write

from llama2vec.artifact import owned
from llama2vec.errors import DataError
from llama2vec.files import write_atomic
from llama2vec.locks import Lock, NoLocksError


def test_one_has_the_lock_until_it_is_released_and_the_file_goes_with_it(tmp_path: Path) -> None:
    first, second = Lock(tmp_path / "x"), Lock(tmp_path / "x")
    assert first.acquire()
    assert second.path.stat().st_size > 0
    assert first.owner() == "this process"
    assert not second.acquire()
    assert second.is_busy()
    second.release()
    assert second.is_busy()
    first.release()
    assert not second.is_busy()
    assert list(tmp_path.iterdir()) == []
    assert second.acquire()
    second.release()


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _dangling_link(path: Path) -> None:
    path.symlink_to("nowhere")


def _link_to_a_file(path: Path) -> None:
    (path.parent / "precious").write_text("mine")
    path.symlink_to("precious")


@pytest.mark.parametrize(
    "leave",
    [
        *(lambda path, content=content: path.write_bytes(content) for content in (b"", b"[]", b"5", b"\xff\x00")),
        lambda path: (path.touch(), os.utime(path, (4e9, 4e9))),
        _fifo,
        _dangling_link,
        _link_to_a_file,
    ],
)  # fmt: skip
def test_whatever_lies_in_its_place_is_a_leftover(tmp_path: Path, leave) -> None:  # type: ignore[no-untyped-def]
    leave(tmp_path / "x")
    lock = Lock(tmp_path / "x")
    assert not lock.is_busy()
    assert lock.acquire()
    lock.release()
    assert not os.path.lexists(tmp_path / "x")
    assert not (tmp_path / "precious").exists() or (tmp_path / "precious").read_text() == "mine"


def test_a_lock_holds_where_its_owner_cannot_be_written_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.write", full)
    lock = Lock(tmp_path / "x")
    assert lock.acquire()
    assert lock.path.stat().st_size == 0
    lock.release()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let every lock be answered with an error of the system."""

    def answer(number: int) -> None:
        def refuse(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "lockf", refuse)

    return answer


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told_and_nothing_is_left(
    tmp_path: Path, answering: Callable[[int], None], number: int
) -> None:
    answering(number)
    handles = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    lock = Lock(tmp_path / "x")
    with pytest.raises(NoLocksError):
        lock.acquire()
    with pytest.raises(DataError, match=r"/out: this file system has no locks, .*\(Lustre: -o flock; NFS: version 4\)"):
        owned(tmp_path / "out").__enter__()
    with pytest.raises(DataError, match=r"/store: this file system has no locks, .*, or choose another output"):
        write(tmp_path / "store")
    assert list(tmp_path.iterdir()) == []
    if handles is not None:
        assert len(os.listdir("/proc/self/fd")) == handles
    write_atomic(tmp_path / "file", b"whole")  # Its lock only spares it the sweep
    assert (tmp_path / "file").read_bytes() == b"whole"


def test_another_error_of_a_lock_leaves_its_file(tmp_path: Path, answering: Callable[[int], None]) -> None:
    answering(errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        Lock(tmp_path / "x").acquire()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
