"""Run the command line in a child that is forked from this process, where everything heavy is imported already."""

from __future__ import annotations

import atexit
import importlib
import os
import pkgutil
import re
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

CPU_SECONDS, WALL_SECONDS = 60, 180
"""A child that takes more hangs; the second is generous because the machine may be busy."""
_MEMORY_BYTES = 12 << 30
_POLL_SECONDS = 0.005
_PRELOADED = (
    "torch", "transformers", "transformers.models.llama.modeling_llama", "peft", "accelerate", "faiss", "bm25s",
    "Stemmer", "ir_measures", "matplotlib.pyplot", "jinja2", "rich.table", "fastapi", "uvicorn", "scipy.sparse",
)  # fmt: skip
_NOT_FOR_US = ("__main__", "portable_encoder", "sentence_transformers", "mteb")


def preload() -> None:
    """Import everything that the verbs need; nothing here may start a thread, because only one survives a fork."""
    for name in _PRELOADED:
        importlib.import_module(name)
    import llama2vec

    for module in pkgutil.walk_packages(llama2vec.__path__, "llama2vec."):
        if not module.name.endswith(_NOT_FOR_US):
            importlib.import_module(module.name)
    # pyarrow's allocator frees memory on a thread of its own; a child does without it.
    threads = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    assert len(threads) - ("jemalloc_bg_thd" in threads) <= 1, f"threads before the first fork: {threads}"


@dataclass(frozen=True)
class Ended:
    """How a child ended."""

    code: int  # Exit code; negative: the signal that ended it
    out: str
    err: str
    seconds: float
    hung: bool = False

    @property
    def trouble(self) -> str | None:
        """What no attack may cause: a traceback, an endless wait, a crash, an error without its one line."""
        if self.hung:
            return "hangs"
        if "Traceback (most recent call last)" in self.err + self.out:
            return f"traceback: {self.err.strip().splitlines()[-1:]}"
        if self.code < 0:
            return f"ended by {signal.Signals(-self.code).name}"
        if self.code == 2:
            lines = [line for line in self.err.splitlines() if re.match("llama2vec: |Error: ", line)]
            if len(lines) != 1 or self.err.rstrip("\n").splitlines()[-1] != lines[0]:
                return f"exit 2 without one clear line at the end: {self.err[-300:]!r}"
            if len(lines[0]) > 1000:
                return f"a line of {len(lines[0]):,} characters: {lines[0][:200]}"
            if not lines[0].isprintable():
                return f"control characters on the terminal: {lines[0]!r}"
        return None


class Child:
    """A command that runs in a forked process."""

    def __init__(
        self, argv: Sequence[str], place: Path, log: Path, prepare: Callable[[], object] = lambda: None
    ) -> None:
        self.argv = list(argv)
        self._out, self._err = log.with_suffix(".out"), log.with_suffix(".err")
        self._started, self._code = time.monotonic(), None
        for path in (self._out, self._err):
            path.unlink(missing_ok=True)  # what an earlier child said
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(place, prepare)

    def _run(self, place: Path, prepare: Callable[[], object]) -> None:
        code = 70
        try:
            os.setsid()
            for number, path, mode in (
                (0, os.devnull, os.O_RDONLY),
                (1, str(self._out), os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
                (2, str(self._err), os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
            ):
                handle = os.open(path, mode, 0o644)
                os.dup2(handle, number)
                os.close(handle)
            prepare()
            sys.stdin = os.fdopen(0, "r", encoding="utf-8", closefd=False)
            sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
            sys.stderr = os.fdopen(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.chdir(place)
            resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
            resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
            sys.argv = ["llama2vec", *self.argv]
            code = _exit_code(self.argv)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code & 0xFF)

    def poll(self) -> int | None:
        """Return the exit code if the child has ended."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code

    @property
    def out(self) -> str:
        """What the child has printed so far."""
        return self._out.read_text(encoding="utf-8", errors="replace") if self._out.exists() else ""

    def wait(self, until: Callable[[], bool] = lambda: False) -> Ended | None:
        """Wait for the end; None if ``until`` came true before. A child that hangs is killed."""
        while self.poll() is None:
            if until():
                return None
            if time.monotonic() - self._started > WALL_SECONDS:
                self.kill()
                return self._ended(hung=True)
            time.sleep(_POLL_SECONDS)
        return self._ended(hung=self._code in (-signal.SIGXCPU,))

    def end(self) -> Ended:
        """Wait for the end."""
        ended = self.wait()
        assert ended is not None
        return ended

    def kill(self) -> Ended:
        """SIGKILL the child and whatever it started."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it is no group yet
                os.killpg(self.pid, signal.SIGKILL)
            os.kill(self.pid, signal.SIGKILL)
            while self.poll() is None:
                time.sleep(_POLL_SECONDS)
        return self._ended()

    def terminate(self) -> None:
        """Ask the child to stop, as a service manager does."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)

    def _ended(self, *, hung: bool = False) -> Ended:
        assert self._code is not None
        err = self._err.read_text(encoding="utf-8", errors="replace") if self._err.exists() else ""
        return Ended(self._code, self.out, err, time.monotonic() - self._started, hung)


def _exit_code(argv: list[str]) -> int:
    from llama2vec.cli import main

    try:
        main(argv)
        code: object = 0
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    with suppress(OSError):  # main has flushed it, and said what is wrong
        sys.stdout.flush()
    return code if isinstance(code, int) else 0 if code is None else 1


def fresh_process(argv: Sequence[str | bytes], place: Path, stdout: int = subprocess.PIPE) -> Ended:
    """Run the command line in an interpreter of its own, where a fork would hide something."""
    started = time.monotonic()
    command = [sys.executable, "-m", "llama2vec.cli", *argv]
    try:
        done = subprocess.run(
            command, cwd=place, stdin=subprocess.DEVNULL, stdout=stdout, stderr=subprocess.PIPE, timeout=WALL_SECONDS
        )
    except subprocess.TimeoutExpired:
        return Ended(-signal.SIGKILL, "", "", time.monotonic() - started, hung=True)
    out, err = ((text or b"").decode(errors="replace") for text in (done.stdout, done.stderr))
    return Ended(done.returncode, out, err, time.monotonic() - started)
