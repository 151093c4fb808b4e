"""SIGKILL at a random moment: the same command again ends with the bytes of an undisturbed run, and no litter."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from .children import Child
from .commands import OUT, PRINTERS, SERVICES, WRITERS, Command, References, run_to_result
from .moments import Moments
from .trees import differences, stable_text, tree


class Kills:
    """The attack: one process, or two on one output, of which one or none is killed."""

    name = "kills"

    def __init__(self, references: References) -> None:
        self._references, self._site = references, references.site

    def attack(self, draw: random.Random) -> tuple[Command, str | None]:
        """Make one attack; return the command and what went wrong, or None."""
        command = draw.choice(WRITERS) if draw.random() < 0.9 else draw.choice(PRINTERS + SERVICES)
        if command.writes and draw.random() < 0.2:
            return command, self._two(command, draw)
        return command, self._one(command, draw)

    def _one(self, command: Command, draw: random.Random) -> str | None:
        reference = self._references.of(command)
        for again in range(draw.choice((1, 1, 2))):
            moments, delay = Moments(), draw.uniform(0, reference.seconds)
            if draw.random() < 0.65:
                moments, delay = Moments(kill_at=draw.randint(1, max(1, reference.changes))), None
            if not again:
                command.prepare(self._site)
                before = tree(self._site.place)
            child = Child(command.argv, self._site.place, self._site.log, moments.watch)
            self._wait(child, delay)
            problem = self._check_old(command, before)
            if problem:
                return problem
        return self._check_rerun(command)

    def _two(self, command: Command, draw: random.Random) -> str | None:
        reference = self._references.of(command)
        command.prepare(self._site)
        before = tree(self._site.place)
        log = self._site.log
        first = Child(command.argv, self._site.place, log)
        time.sleep(draw.uniform(0, reference.seconds))
        second = Child(command.argv, self._site.place, log.with_name("second"))
        victim = draw.choice((None, first, second))
        if victim:
            self._wait(victim, draw.uniform(0, reference.seconds))
        for child in (first, second):
            if child is victim:
                continue
            ended = child.end()
            if ended.trouble or ended.code not in (0, 2):
                return f"of two processes one ended with {ended.code}: {ended.trouble or ended.err[-300:]}"
        return self._check_old(command, before) or self._check_rerun(command)

    @staticmethod
    def _wait(child: Child, delay: float | None) -> None:
        if delay is None:
            child.wait(until=_is_serving(child))
        else:
            end = time.monotonic() + delay
            child.wait(until=lambda: time.monotonic() > end)
        child.kill()

    def _check_old(self, command: Command, before: dict[str, str]) -> str | None:
        """Return what is wrong with the inputs, or with the older output, after a kill."""
        now, after = tree(self._site.place), self._references.of(command).files
        lost = [path for path in before if not path.startswith("disk") and now.get(path) != before[path]]
        if lost:
            return f"inputs changed: {lost[:4]}"
        if not command.keeps_old:
            return None
        for output in {path.split("/")[1] for path in before if _is_output(path)}:
            old, new, there = ({path: digest for path, digest in files.items() if _is_of(path, output)}
                               for files in (before, after, now))  # fmt: skip
            # Half-written files go with the next call.
            there = {path: digest for path, digest in there.items() if ".tmp-" not in path}
            if there not in (old, new):
                wrong = min(differences(old, there), differences(new, there), key=len)
                return f"the older output is neither whole nor replaced: {wrong[:4]}"
        return None

    def _check_rerun(self, command: Command) -> str | None:
        reference = self._references.of(command)
        ended = run_to_result(command, self._site)
        was_done = ended.code == 2 and "exists already" in ended.err  # killed after the result was in its place
        if ended.trouble or (ended.code != 0 and not was_done):
            return f"the same command again ended with {ended.code}: {ended.trouble or ended.err[-300:]}"
        wrong = differences(reference.files, tree(self._site.place))
        if wrong:
            return f"the same command again leaves something else: {wrong[:6]}"
        if not command.writes and stable_text(ended.out) != reference.printed:
            return "the same command again prints something else"
        return None


def _is_output(path: str) -> bool:
    return path.startswith(OUT) and ".tmp-" not in path


def _is_of(path: str, output: str) -> bool:
    return path == f"disk/{output}" or path.startswith(f"disk/{output}/")


def _is_serving(child: Child) -> Callable[[], bool]:
    from .service import is_ready

    return lambda: child.argv[0] == "serve" and is_ready(child.out)
