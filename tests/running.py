"""Run the command line inside the test's process, down to its exit code."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from llama2vec.cli import main


@dataclass
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str


class CommandLine:
    """Call it with a command's arguments."""

    def __init__(self, captured: pytest.CaptureFixture[str]) -> None:
        self._captured = captured

    def __call__(self, *arguments: object) -> Finished:
        self._captured.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        out, err = self._captured.readouterr()
        code = stopped.value.code
        return Finished(code if isinstance(code, int) else 0 if code is None else 1, out, err)

    def refused(self, *arguments: object) -> str:
        """Run a command that must fail as a user's mistake does; return its one line."""
        finished = self(*arguments)
        assert finished.code == 2, finished
        assert finished.out == ""
        assert "Traceback" not in finished.err
        lines = [line for line in finished.err.splitlines() if line.startswith("llama2vec: ")]
        assert len(lines) == 1, finished.err
        assert finished.err.splitlines()[-1] == lines[0]
        return lines[0]
