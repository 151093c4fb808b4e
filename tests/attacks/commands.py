"""The commands that are attacked: at least one for each verb, with what it reads and what it writes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .children import Child, Ended
from .moments import Moments
from .site import ADAPT, FINETUNE, LOADING, Site
from .trees import stable_text, tree

OUT = "disk/out"
"""Where every command writes; ``disk`` is a file system of its own when it must run full."""


@dataclass(frozen=True)
class Command:
    """One command line over the inputs of a site."""

    argv: list[str]
    reads: tuple[str, ...]  # Its inputs
    before: Mapping[str, str] = field(default_factory=dict)  # What lies at a path before: a copy of which input
    writes: bool = True  # Otherwise its result is what it prints
    keeps_old: bool = False  # An older output stays whole until the new one is

    @property
    def verb(self) -> str:
        return self.argv[0]

    def prepare(self, site: Site) -> Path:
        """Return a fresh copy of the inputs, with the older output where there is one."""
        place = site.reset()
        for target, source in self.before.items():
            put = shutil.copytree if (place / source).is_dir() else shutil.copy2
            put(place / source, place / target)
        return place


def _over(argv: list[str], old: str, *reads: str, to: str = OUT) -> Command:
    return Command([*argv, "--overwrite"], reads, {to: old}, keeps_old=True)


_TO = ["-o", OUT]
_ENCODE = ["encode", "adapted", "corpus.jsonl", *_TO, "--shard-size", "8", *LOADING]
_RUN = ["run", "recipe.toml", *_TO]
_SEARCH = ["search", "index", "--queries", "beir", "--run", OUT]
_RERANK = ["rerank", "hybrid.trec", "--model", "adapted", "--task", "beir", "--depth", "5", *_TO, *LOADING]
_LABELED = ["-o", f"{OUT}.jsonl"]
_GENERATE = ["generate", "corpus.jsonl", *_LABELED, "--model", "llm", *LOADING, *(
    f"--set=generate.{setting}" for setting in (
        "prompt={passage}", "passages=4", "questions=8", "question_max_tokens=64", "temperature=2", "top_p=1",
        "min_words=1", "max_words=64", "round_trip=0", "most_copied=1", "batch_size=2",
    )
)]  # fmt: skip
_DISTILL = ["distill", "adapted", "--queries", "queries.jsonl", "--corpus", "corpus.jsonl", "--count", "30", *_TO]
_MINE = ["mine", "train.jsonl", "--corpus", "corpus.jsonl", *_LABELED]
_SCORE = ["evaluate", "adapted", "--task", "beir", "--task", "pairs.tsv", *_TO, "--name", "a", *LOADING]
_COMPARE = ["compare", "hybrid.trec", "words.trec", "--task", "beir", "--flips", "500"]
_SYNC = ["sync", "notes", OUT, "--model", "adapted", *LOADING]
_ASK = ["ask", "notes", "Where is the silver river?", "--index", OUT, "--model", "adapted", *LOADING]
_LIBRARY = {OUT: "kept/library"}
_PAGE = f"{OUT}.html"
_REPORT = ["report", "scores/adapted", "scores/bm25", "comparison.json", "adapted", "-o", _PAGE]

WRITERS = [
    Command([*ADAPT, *_TO], ("llm", "corpus.jsonl")),
    _over([*ADAPT, *_TO], "older", "llm", "corpus.jsonl"),
    Command([*ADAPT, *_TO], ("llm", "corpus.jsonl", OUT), {OUT: "half"}),
    Command([*ADAPT, "--set=text.streaming=true", *_TO], ("llm", "corpus.jsonl")),
    Command([*FINETUNE, *_TO], ("adapted", "train.jsonl")),
    Command([*FINETUNE, "--set=data.streaming=true", *_TO], ("adapted", "train.jsonl")),
    _over([*FINETUNE, "--set=optimizer.seed=7", *_TO], "tuned", "adapted", "train.jsonl"),
    Command([*_MINE, "--model", "adapted", *LOADING], ("adapted", "train.jsonl", "corpus.jsonl")),
    Command(
        ["mine", "train.jsonl", "--store", "index", *_LABELED, *LOADING], ("adapted", "train.jsonl", "store", "index")
    ),
    Command(
        [*_MINE, "--set=mine.negatives=3", "--overwrite"],
        ("train.jsonl", "corpus.jsonl"),
        {f"{OUT}.jsonl": "mined.jsonl", f"{OUT}.jsonl.report.json": "mined.jsonl.report.json"},
        keeps_old=True,
    ),
    Command(_ENCODE, ("adapted", "corpus.jsonl")),
    Command(["encode", "adapted", "notes", *_TO, *LOADING], ("adapted", "notes")),
    Command(
        ["encode", "adapted", "newer.jsonl", *_TO, "--reuse", "store", *LOADING], ("adapted", "newer.jsonl", "store")
    ),
    _over(["encode", "adapted", "newer.jsonl", *_TO, *LOADING], "store", "adapted", "newer.jsonl"),
    Command(["sync", "notes", OUT], ("notes",)),
    Command(_SYNC, ("notes", "adapted")),
    Command(_SYNC, ("notes", "adapted", OUT), _LIBRARY, keeps_old=True),
    Command(_ASK, ("notes", "adapted")),
    Command([*_ASK, "--words"], ("notes", OUT), _LIBRARY, keeps_old=True),
    Command(["read", "notes", *_LABELED, "--model", "adapted", "--set", "passages.tokens=24"], ("notes", "adapted")),
    Command(
        ["read", "beir", *_LABELED, "--set", "passages.split=always", "--overwrite"],
        ("beir",),
        {f"{OUT}.jsonl": "read.jsonl"},
        keeps_old=True,
    ),
    Command(["remove", OUT, "note1.txt"], (OUT,), _LIBRARY, keeps_old=True),
    Command(["compact", "adapted", *_TO], ("adapted", "llm")),
    _over(["compact", "adapted", *_TO, "--rank", "4"], "compact", "adapted", "llm"),
    Command(["export", "adapted", *_TO], ("adapted",)),
    Command(["export", "store", "--to", "faiss", *_TO], ("store",)),
    Command(["index", "store", *_TO], ("store",)),
    Command(["index", "store", *_TO, "--kind", "faiss-flat", "--bm25"], ("store",)),
    Command(["index", "store", *_TO, "--bm25"], ("store", OUT), {OUT: "kept/hnsw"}, keeps_old=True),
    _over(["index", "store", *_TO, "--kind", "faiss-hnsw"], "index", "store"),
    _over(["index", "store", *_TO, "--bm25", "--language", "de"], "index", "store"),
    Command([*_SEARCH, *LOADING], ("index", "store", "adapted", "beir")),
    Command([*_SEARCH, "--mode", "bm25"], ("index", "store", "beir")),
    _over([*_SEARCH, "--mode", "dense", *LOADING], "words.trec", "index", "store", "adapted", "beir"),
    Command(_RERANK, ("hybrid.trec", "adapted", "beir")),
    _over([*_RERANK, "--name", "again"], "words.trec", "hybrid.trec", "adapted", "beir"),
    Command(_GENERATE, ("llm", "corpus.jsonl")),
    Command([*_DISTILL, *LOADING], ("adapted", "queries.jsonl", "corpus.jsonl")),
    Command(_SCORE, ("adapted", "beir", "pairs.tsv")),
    Command(
        ["evaluate", "adapted", "--task", "beir", *_TO, "--mode", "hybrid", "--set=stores=disk/stores", *LOADING],
        ("adapted", "beir"),
    ),
    _over(["evaluate", "bm25", "--task", "beir", *_TO, "--set=depth=20"], "scores/bm25", "beir"),
    Command([*_COMPARE, "--output", f"{OUT}.json"], ("hybrid.trec", "words.trec", "beir")),
    _over(
        [*_COMPARE, "--seed", "1", "--output", f"{OUT}.json"],
        "comparison.json",
        "hybrid.trec",
        "beir",
        to=f"{OUT}.json",
    ),
    Command(_REPORT, ("scores", "comparison.json", "adapted")),
    Command(_RUN, ("llm", "corpus.jsonl", "beir", "pairs.tsv", "recipe.toml")),
    Command(["verify", OUT, "--write", "--overwrite", *LOADING], (OUT,), {OUT: "adapted"}, keeps_old=True),
    Command(["verify", "adapted", "--dtype", "float32", "--device", "cpu", "--output", f"{OUT}.json"], ("adapted",)),
    Command(["verify", "adapted", "--export-texts", f"{OUT}.jsonl"], ("adapted",)),
    Command(
        ["card", OUT, "--scores", "scores/adapted/beir-test.json"], (OUT, "scores"), {OUT: "adapted"}, keeps_old=True
    ),
    Command(["check", "train.jsonl", "--model", "adapted", "--output", f"{OUT}.json"], ("train.jsonl", "adapted")),
]

PRINTERS = [
    Command(["search", "index", "the silver river", *LOADING], ("index", "store", "adapted"), writes=False),
    Command(["search", "kept/hnsw", "the silver river", *LOADING], ("kept", "store", "adapted"), writes=False),
    Command(["search", "store", "the silver river", *LOADING], ("store", "adapted"), writes=False),
    Command(["search", "index", "the silver river", "--mode", "bm25"], ("index", "store"), writes=False),
    Command(
        ["search", "kept/library", "the silver river", "--where", 'path ~ "note"', "--json", *LOADING],
        ("kept", "adapted"),
        writes=False,
    ),
    Command(
        ["explain", "compact", "-q", "silver river", "-p", "A river of silver.", *LOADING], ("compact",), writes=False
    ),
    Command(
        ["explain", "adapted", "-q", "silver river", "-p", "A river of silver.", *LOADING], ("adapted",), writes=False
    ),
    Command(["verify", "adapted", "--dtype", "float32", "--device", "cpu"], ("adapted",), writes=False),
    Command(["verify", "tuned", "--backend", "transformers"], ("tuned",), writes=False),
    Command(["evaluate", "tuned", "--task", "beir", "--name", "t", *LOADING], ("tuned", "beir"), writes=False),
    Command(["check", "train.jsonl"], ("train.jsonl",), writes=False),
    Command(
        ["compare", "hybrid.trec", "words.trec", "--qrels", "beir/qrels/test.tsv", "--flips", "500"],
        ("hybrid.trec", "words.trec", "beir"),
        writes=False,
    ),
    Command(
        ["run", "recipe.toml", *_TO, "--dry-run", "--flops", "1e9"],
        ("llm", "corpus.jsonl", "beir", "recipe.toml"),
        writes=False,
    ),
    Command(["recipes"], (), writes=False),
    Command(["recipes", "show", "demo"], (), writes=False),
]

SERVICES = [
    Command(["serve", "index", "--port", "0", *LOADING], ("index", "store", "adapted"), writes=False),
    Command(["serve", "--model", "tuned", "--port", "0", *LOADING], ("tuned",), writes=False),
]
COMMANDS = [*WRITERS, *PRINTERS, *SERVICES]


@dataclass(frozen=True)
class Result:
    """What a command leaves and prints when nothing disturbs it."""

    files: dict[str, str]  # The whole site
    printed: str
    seconds: float
    changes: int  # How often it changes a file


class References:
    """The undisturbed result of each command, made when it is first asked for."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._found: dict[int, Result] = {}

    def of(self, command: Command) -> Result:
        key = COMMANDS.index(command)
        if key not in self._found:
            place = command.prepare(self.site)
            moments = Moments()
            ended = run_to_result(command, self.site, moments.watch)
            assert ended.code == 0, (command.argv, ended)
            assert ended.trouble is None, (command.argv, ended)
            self._found[key] = Result(tree(place), stable_text(ended.out), ended.seconds, moments.count)
        return self._found[key]


def run_to_result(command: Command, site: Site, prepare: Callable[[], object] = lambda: None) -> Ended:
    """Run a command to its end; ask a service one question, and stop it."""
    child = Child(command.argv, site.place, site.log, prepare)
    if command.verb != "serve":
        return child.end()
    return ask_service(child)


def ask_service(child: Child) -> Ended:
    """Wait for a service, ask it, stop it; what it answered stands in ``out``."""
    from .service import answers, is_ready

    ended = child.wait(until=lambda: is_ready(child.out))
    if ended is not None:
        return ended
    said = answers(child.out)
    child.terminate()
    ended = child.end()
    return Ended(ended.code, said, ended.err, ended.seconds, ended.hung)
