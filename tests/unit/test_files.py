"""Files are written whole, and read only where reading ends."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llama2vec.files import file_sha256, open_regular, read_text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes by name")
@pytest.mark.parametrize("read", [open_regular, read_text, file_sha256])
def test_a_pipe_is_refused_and_not_waited_for(read: object, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        read(tmp_path / "pipe")  # type: ignore[operator]


@pytest.mark.parametrize("place", ["/dev/zero", "."])
def test_a_device_or_folder_is_refused(place: str) -> None:
    with pytest.raises(OSError, match=r"not a regular file|Is a directory"):
        open_regular(Path(place))


def test_a_text_is_read_as_utf8(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes("橋\n".encode())
    assert read_text(tmp_path / "a") == "橋\n"
