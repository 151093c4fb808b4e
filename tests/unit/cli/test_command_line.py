"""What every command shares: help, version, exit codes, and a terminal that gets only printable text."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from running import CommandLine
from storing import write

import llama2vec
from llama2vec.cli import COMMANDS

LOADED = "import sys; sys.argv[1:] = {}; from llama2vec.cli import main\ntry: main()\nexcept SystemExit: print({})"


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_the_help_lists_every_command_on_one_line_each(command_line: CommandLine, option: str) -> None:
    done = command_line(option)
    assert done.code == 0
    lines = done.out.splitlines()
    for name, what in COMMANDS.items():
        assert [line for line in lines if line.split()[:1] == [name]] == [f"  {name:<9} {what}"]
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_within_80_columns(command_line: CommandLine, name: str) -> None:
    done = command_line(name, "-h")
    assert done.code == 0
    assert f"Usage: llama2vec {name}" in done.out
    assert max(map(len, done.out.splitlines())) <= 80


def test_a_value_of_thousands_of_characters_does_not_bury_what_is_wrong(command_line: CommandLine) -> None:
    line = command_line.refused("verify", "y" * 20_000)
    assert "y" * 90 in line
    assert "…" in line
    assert len(line) < 600


def test_an_output_that_is_a_link_to_itself_is_one_line(command_line: CommandLine, tmp_path: Path) -> None:
    write(tmp_path / "store")
    (tmp_path / "loop").symlink_to("loop")
    assert "loop" in command_line.refused("index", tmp_path / "store", "-o", tmp_path / "loop")
    assert {path.name for path in tmp_path.iterdir()} == {"store", "loop"}


def test_the_version_is_printed(command_line: CommandLine) -> None:
    assert command_line("--version").out == f"llama2vec {llama2vec.__version__}\n"


def test_a_misspelt_command_is_corrected(command_line: CommandLine) -> None:
    done = command_line("serach")
    assert done.code == 2
    assert "Did you mean 'search'?" in done.err


def test_help_and_version_load_no_command() -> None:
    for arguments in (["-h"], ["--version"]):
        loaded = "sorted(name for name in sys.modules if name in ('torch', 'pydantic', 'numpy'))"
        code = LOADED.format(arguments, loaded)
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        assert found.stdout.splitlines()[-1] == "[]"


def test_an_argument_that_is_not_utf8_is_one_line() -> None:
    done = subprocess.run(
        [os.fsencode(sys.executable), b"-m", b"llama2vec.cli", b"search", b"s", b"caf\xe9"],
        capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == b"llama2vec: argument 3 is not valid UTF-8: 'caf\\udce9'; check the terminal's encoding\n"


def test_a_closed_pipe_and_a_full_disk_end_without_a_traceback() -> None:
    command = [sys.executable, "-m", "llama2vec.cli", "-h"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")
    if Path("/dev/full").exists():
        with open("/dev/full", "wb") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=60, check=False)
        assert done.returncode == 2
        assert done.stderr.startswith(b"llama2vec: No space left on device")
        assert done.stderr.count(b"\n") == 1


def test_an_escape_sequence_in_a_path_is_shown_and_not_obeyed(command_line: CommandLine) -> None:
    line = command_line.refused("check", "\x1b]0;owned\x07.jsonl")
    assert "\x1b" not in line
    assert "\\x1b]0;owned\\x07.jsonl: no such file or folder" in line
