"""Damaged files: a verb that reads one gives exactly the undamaged result, or one clear line and exit code 2."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

from .commands import COMMANDS, Command, References, run_to_result
from .site import RAW
from .trees import differences, stable_text, tree

_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 12345\n" % 7
_OTHER_JSON = (
    b"{}", b"[]", b"5", b"null", b'"text"', b"NaN", b'{"format": "llama2vec-store", "version": 1}', b'{"format": 1}',
    b"[" * 100_000, b'{"a": 1e999}', b'{"version": 99}',
)  # fmt: skip


def _flip(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    if content:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)


def _flip_digit(path: Path, draw: random.Random) -> None:
    """Change one digit of a text, which stays valid; elsewhere a bit."""
    content = bytearray(path.read_bytes())
    places = [place for place, byte in enumerate(content) if 48 <= byte <= 57]
    if not places or path.suffix not in (".json", ".jsonl", ".tsv", ".trec", ".md"):
        _flip(path, draw)
        return
    place = draw.choice(places)
    content[place] = 48 + (content[place] - 48 + draw.randint(1, 9)) % 10
    path.write_bytes(content)


def _truncate(path: Path, draw: random.Random) -> None:
    os.truncate(path, draw.randrange(max(1, path.stat().st_size)))


def _folder(path: Path, draw: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path, draw: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def _neighbor(path: Path, draw: random.Random) -> None:
    """Put the content of another file of the same folder here."""
    others = [file for file in sorted(path.parent.iterdir()) if file.is_file() and file != path]
    path.write_bytes(draw.choice(others).read_bytes() if others else b"")


DAMAGES: tuple[Callable[[Path, random.Random], object], ...] = (
    _flip, _flip, _flip, _flip_digit, _truncate, _truncate, _folder, _pipe, _neighbor,
    lambda path, draw: path.write_bytes(b""),
    lambda path, draw: path.write_bytes(_POINTER),
    lambda path, draw: path.write_bytes(draw.choice(_OTHER_JSON)),
    lambda path, draw: path.write_bytes(draw.randbytes(draw.randint(1, 4000))),
    lambda path, draw: path.unlink(),
)  # fmt: skip


class Damages:
    """The attack: one file of one input."""

    name = "damages"

    def __init__(self, references: References) -> None:
        self._references, self._site = references, references.site

    def attack(self, draw: random.Random) -> tuple[Command, str | None]:
        """Make one attack; return the command and what went wrong, or None."""
        command = draw.choice([one for one in COMMANDS if one.reads])
        reference = self._references.of(command)
        place = command.prepare(self._site)
        # Files of users have no checksums that could tell: most of the attacks go to our own.
        inputs = [name for name in command.reads if name not in RAW]
        if not inputs or draw.random() < 0.15:
            inputs = list(command.reads)
        file = draw.choice(_files(place / draw.choice(inputs)))
        damage = draw.choice(DAMAGES)
        damage(file, draw)
        name = str(file.relative_to(place))
        problem = self._check(command, reference.files, reference.printed, name)
        what = damage.__name__.strip("_<>")
        return command, problem and f"{name} ({what}): {problem}"

    def _check(self, command: Command, files: dict[str, str], printed: str, damaged: str) -> str | None:
        place = self._site.place
        before = tree(place)
        ended = run_to_result(command, self._site)
        if ended.trouble:
            return ended.trouble
        found = tree(place)
        if ended.code == 2 or (ended.code == 1 and command.verb == "verify"):
            # A resumable output may keep what it has; nothing else may change.
            wrong = [path for path in differences(before, found) if ended.code == 2 and not path.startswith("disk/out")]
            return f"refused, but changed {wrong[:4]}" if wrong else None
        if ended.code != 0:
            return f"exit code {ended.code}: {ended.err[-300:]}"
        # TREC runs and logs have no room for a checksum, and an encoder never generates.
        free = (".trec", "/log.jsonl", "/generation_config.json")
        no_checksum = damaged.split("/")[0] in RAW or damaged.endswith(free)
        if no_checksum or "refused 5" in ended.out:
            return None
        wrong = [path for path in differences(files, found) if not path.startswith(f"{damaged} ") and
                 not path.startswith(f"{damaged}/")]  # fmt: skip
        if wrong:
            return f"another result: {wrong[:6]}"
        if not command.writes and stable_text(ended.out) != printed:
            return f"another answer: {ended.out[:300]!r}"
        return None


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(file for file in path.rglob("*") if file.is_file()) or [path]
