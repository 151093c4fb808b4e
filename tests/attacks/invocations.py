"""Bad invocations, made from the commands' own options: exit code 2 and one clear line, or a legitimate success."""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .children import Child, Ended, fresh_process
from .commands import COMMANDS, Command, References, ask_service
from .trees import tree

_OUTPUTS = {"--output", "-o", "--run", "--export-texts", "--index"}
_NUMBERS = [
    "nan", "inf", "-inf", "1e400", "1e308", "1e-320", "-1", "0", "1", "0.5", "2147483648", "9" * 30, "1" * 5000,
    "1_000", "0x10", "٣", "True",
]  # fmt: skip
_TEXTS = [
    "", " ", "-", "--", "x", "=", "a=b=c", "key=value", "null", "[]", "{}", "x" * 300, "y" * 20_000,
    "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "a\tb\nc", "\u202eright", "llama \N{LLAMA}", "\udcff", "caf\udce9",
    "%s%n", "[/red]", "*", "klingon", "EN",
]  # fmt: skip
_PATHS = [
    "missing", "missing/deep", "folder", "pipe", "loop", "dangling", "corpus.jsonl/inside", "empty.jsonl",
    "latin.jsonl", "zeros.jsonl", "deep.jsonl", "half.jsonl.gz", "nan.jsonl", "bad.toml", "corpus.jsonl",
    "train.jsonl", "queries.jsonl", "recipe.toml", "beir", "notes", "pairs.tsv", "llm", "adapted", "half", "store",
    "index", "kept/hnsw", "scores", "comparison.json", "hybrid.trec", "mined.jsonl", "kept/library", "compact",
    ".", "..", "./../site/store", "hf:",
    "hf:a:b:c", "ir:", "ir:nope/nope", "beir/nope", "sts/x", "bm25", "nobody/nothing", "z" * 400, "d/" * 3000,
]  # fmt: skip
_NEVER = ("--watch", "--open")  # One never ends, the other starts programs
_DEVICES = ["/dev/null", "/dev/zero", "/proc/self/mem", "/proc/self/environ", "/sys", "/nonexistent/x"]
_UNKNOWN = [
    "--nope",
    "-Z",
    "--outptu=x",
    "--set",
    "--set=",
    "--set=nope=1",
    "--set=a.b.c=1",
    "--set=__class__=1",
    "extra",
]
_BAD_TOML = [
    "[x]\n", "x = [", "", "model = 5", "[optimizer]\nsteps = nan", "[optimizer]\nsteps = -1", "\x00",
    "[model]\nname = ''", "[text]\ncorpus = 3", "[optimizer]\nlearning_rate = 1e300", "[prompts]\nslots = 65",
    "[[model]]\n",
]  # fmt: skip


class Invocations:
    """The attack: one or two changes to a good command line, or to where its output goes."""

    name = "invocations"

    def __init__(self, references: References) -> None:
        self._site = references.site
        self._options: dict[str, list[tuple[str, bool, bool]]] = {}
        self._settings: dict[str, list[str]] = {}

    def attack(self, draw: random.Random) -> tuple[Command, str | None]:
        """Make one attack; return the command line and what went wrong, or None."""
        command = draw.choice(COMMANDS)
        place = command.prepare(self._site)
        _plant(place, draw)
        argv = list(command.argv)
        if command.verb == "serve":
            argv += ["--timeout", "5"]
        changes = [
            self._option,
            self._option,
            self._setting,
            self._argument,
            self._output,
            _unknown,
            _dropped,
            _doubled,
        ]
        for _ in range(draw.choice((1, 1, 1, 2))):
            draw.choice(changes)(argv, draw)
        changed = Command(argv, command.reads, command.before, command.writes)
        before = tree(place)
        printing = draw.choice([None] * 16 + [into_closed_pipe, into_full_device]) if argv[:1] != ["serve"] else None
        ended = self._run(changed, printing, draw)
        return changed, self._check(changed, ended, before, may_change=printing is not None)

    def _run(self, command: Command, printing: Callable[[], None] | None, draw: random.Random) -> Ended:
        place, log = self._site.place, self._site.log
        if printing:
            return Child(command.argv, place, log, printing).end()
        if draw.random() < 0.03 and command.argv[:1] != ["serve"]:
            return fresh_process([os.fsencode(word) for word in command.argv], place)
        child = Child(command.argv, place, log)
        return ask_service(child) if command.argv[:1] == ["serve"] else child.end()

    def _check(self, command: Command, ended: Ended, before: dict[str, str], *, may_change: bool) -> str | None:
        if ended.trouble:
            return ended.trouble
        closed = ended.code == 1 and may_change  # whoever read the output has gone
        if ended.code not in (0, 2) and not closed and command.argv[:1] != ["verify"]:
            return f"exit code {ended.code}: {ended.err[-300:]}"
        # The fields that a filter can name are known once the folder is read.
        may_change |= command.argv[:1] == ["ask"] and "llama2vec: where: " in ended.err
        failed = ended.code == 2 and not may_change  # otherwise the result may be whole, and only its news was lost
        now, allowed = tree(self._site.place), [] if failed else _writable(command)
        changed = [path for path in {*before, *now} if before.get(path) != now.get(path)]
        changed = [path for path in changed if failed or path in before]
        changed = [path for path in changed if not any(path == one or path.startswith(f"{one}/") for one in allowed)]
        return f"exit {ended.code}, but changed {sorted(changed)[:5]}: {ended.err[-200:]}" if changed else None

    def _option(self, argv: list[str], draw: random.Random) -> None:
        """Give one of the command's own options a bad value."""
        options = self._options_of(argv[0])
        if not options:
            _unknown(argv, draw)
            return
        name, is_flag, is_number = draw.choice(options)
        if is_flag:
            argv += [name] if draw.random() < 0.7 else [f"{name}=x"]
        else:
            argv += [name, _value(draw, is_number=is_number, is_output=name in _OUTPUTS)]

    def _setting(self, argv: list[str], draw: random.Random) -> None:
        """Set one of the settings to a bad value."""
        keys = self._settings_of(argv[0])
        if not keys:
            self._option(argv, draw)
            return
        value = draw.choice((*_NUMBERS, *_TEXTS, "true", '"x"', "[1]", "{a=1}", '["nope"]', "missing"))
        argv.append(f"--set={draw.choice(keys)}={value}")

    def _argument(self, argv: list[str], draw: random.Random) -> None:
        """Replace an input."""
        places = [place for place in range(1, len(argv)) if argv[place - 1] not in _OUTPUTS and argv[place][0:1] != "-"]
        if places:
            argv[draw.choice(places)] = _value(draw)

    def _output(self, argv: list[str], draw: random.Random) -> None:
        """Write to a place that is taken, is an input, or cannot be."""
        for place, word in enumerate(argv):
            if word in _OUTPUTS:
                argv[place + 1] = _value(draw, is_output=True)
                if draw.random() < 0.4:
                    argv.append("--overwrite")
                return
        self._option(argv, draw)

    def _options_of(self, verb: str) -> list[tuple[str, bool, bool]]:
        if verb not in self._options:
            from typer.main import get_command

            from llama2vec.cli import app

            group: Any = get_command(app)
            found = [one for one in group.get_command(None, verb).params if one.param_type_name == "option"]
            found = [one for one in found if one.opts[0] not in _NEVER]
            self._options[verb] = [
                (
                    max(one.opts, key=len),
                    one.is_flag,
                    re.search("int|float", str(one.type_descriptor.annotation)) is not None,
                )
                for one in found
            ]
        return self._options[verb]

    def _settings_of(self, verb: str) -> list[str]:
        if verb not in self._settings:
            from llama2vec.adapt.settings import AdaptConfig
            from llama2vec.cli.settings_options import settings_lines
            from llama2vec.config import EncoderSettings
            from llama2vec.finetune.settings import FinetuneConfig
            from llama2vec.mine.settings import MineConfig
            from llama2vec.pipeline.settings import RunConfig
            from llama2vec.retrieve.syncing.following import SyncSettings
            from llama2vec.score.settings import ScoringSettings

            schemas: dict[str, Any] = {
                "adapt": AdaptConfig, "finetune": FinetuneConfig, "mine": MineConfig, "run": RunConfig,
                "evaluate": ScoringSettings, "encode": EncoderSettings, "explain": EncoderSettings,
                "serve": EncoderSettings, "sync": SyncSettings,
            }  # fmt: skip
            lines = settings_lines(schemas[verb]) if verb in schemas else ()
            self._settings[verb] = [line.partition(" = ")[0] for line in lines if not line.startswith(" ")]
        return self._settings[verb]


def _value(draw: random.Random, *, is_number: bool = False, is_output: bool = False) -> str:
    if is_output:
        return draw.choice([*_TEXTS, *(path for path in _PATHS if path not in ("..",))])
    kinds = (_NUMBERS, _NUMBERS, _TEXTS) if is_number else (_NUMBERS, _TEXTS, _PATHS, _PATHS, _DEVICES)
    return draw.choice(draw.choice(kinds))


def _unknown(argv: list[str], draw: random.Random) -> None:
    argv.append(draw.choice(_UNKNOWN))


def _dropped(argv: list[str], draw: random.Random) -> None:
    if len(argv) > 1:
        del argv[draw.randrange(1, len(argv))]


def _doubled(argv: list[str], draw: random.Random) -> None:
    place = draw.randrange(len(argv))
    argv.insert(place, argv[place])


def _writable(command: Command) -> list[str]:
    """Return the paths that a successful command may change: where its outputs go."""
    argv = [*command.argv, ""]
    found = [
        os.path.normpath(argv[place + 1])
        for place, word in enumerate(argv[:-1])
        if word in _OUTPUTS and argv[place + 1]
    ]
    found += [word.partition("=")[2] for word in argv if word.partition("=")[0] in _OUTPUTS]
    if argv[0] in ("card", "sync", "remove") or "--write" in argv:
        found += [os.path.normpath(word) for word in argv[1:] if word]
    # mine writes its report next to its output.
    return [*found, *(f"{path}.report.json" for path in found)]


def _plant(place: Path, draw: random.Random) -> None:
    """Put odd things where the options may point."""
    (place / "folder").mkdir()
    os.mkfifo(place / "pipe")
    (place / "loop").symlink_to("loop")
    (place / "dangling").symlink_to("nowhere")
    files: dict[str, bytes] = {
        "empty.jsonl": b"", "latin.jsonl": b'{"_id": "1", "text": "caf\xe9"}\n', "zeros.jsonl": bytes(200),
        "deep.jsonl": b'{"_id": "1", "text": "a", "x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}\n",
        "half.jsonl.gz": b"\x1f\x8b\x08",
        "nan.jsonl": b'{"_id": "1", "text": NaN}\n', "bad.toml": draw.choice(_BAD_TOML).encode(),
    }  # fmt: skip
    for name, content in files.items():
        (place / name).write_bytes(content)


def into_closed_pipe() -> None:
    """Let stdout be a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.dup2(writer, 1)
    os.close(reader)
    os.close(writer)


def into_full_device() -> None:
    """Let stdout be a disk without room."""
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, 1)
    os.close(full)
