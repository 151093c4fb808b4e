"""The place that is attacked: tiny inputs, made once, and a fresh copy of them for every attack."""

from __future__ import annotations

import json
import os
import random
import shutil
from pathlib import Path

from .children import Child

RAW = (
    "llm",
    "corpus.jsonl",
    "newer.jsonl",
    "notes",
    "beir",
    "pairs.tsv",
    "train.jsonl",
    "queries.jsonl",
    "recipe.toml",
)
"""Inputs that users bring; the others are llama2vec's own, and every one of their bytes is watched over."""
TRAINING = ["optimizer.batch_size=4", "optimizer.save_every=2", "optimizer.log_every=1", "model.lora.rank=4"]
LOADING = ["--dtype", "float32", "--device", "cpu"]
_NUMBERS = ["model.dtype=float32", "model.device=cpu"]
ADAPT = [
    "adapt", "--model", "llm", "--corpus", "corpus.jsonl", *(
        f"--set={setting}" for setting in (
            *TRAINING, *_NUMBERS, "optimizer.steps=6", "optimizer.validate_every=3", "text.min_words=5",
            "text.max_words=20", "text.max_tokens=24", "text.held_out=0.2",
        )
    ),
]  # fmt: skip
FINETUNE = [
    "finetune", "--model", "adapted", "--data", "train.jsonl", *(
        f"--set={setting}" for setting in (
            *TRAINING, *_NUMBERS, "optimizer.steps=5", "optimizer.validate_every=2", "contrastive.negatives=1",
            "data.query_max_tokens=24", "data.passage_max_tokens=32",
        )
    ),
]  # fmt: skip
RECIPE = """
corpus = "corpus.jsonl"
[model]
name = "llm"
dtype = "float32"
device = "cpu"
lora = { rank = 4 }
[encoder]
query_max_tokens = 24
passage_max_tokens = 48
[adapt.text]
min_words = 5
max_words = 20
max_tokens = 24
[adapt.optimizer]
steps = 3
batch_size = 4
save_every = 1
[pairs]
from_corpus = true
[mine]
negatives = 2
[finetune.optimizer]
steps = 3
batch_size = 4
save_every = 1
[encode]
shard_size = 8
[index]
bm25 = true
[evaluate]
tasks = ["beir", "pairs.tsv"]
"""
_MADE: list[list[str]] = [
    [*ADAPT, "-o", "adapted"],
    [*ADAPT, "--set=optimizer.steps=4", "-o", "older"],
    [*FINETUNE, "-o", "tuned"],
    ["encode", "adapted", "corpus.jsonl", "-o", "store", "--shard-size", "8", *LOADING],
    ["index", "store", "-o", "index", "--bm25"],
    ["index", "store", "-o", "kept/hnsw", "--kind", "faiss-hnsw"],
    ["search", "index", "--queries", "beir", "--run", "hybrid.trec", *LOADING],
    ["search", "index", "--queries", "beir", "--run", "words.trec", "--mode", "bm25"],
    [
        "evaluate",
        "adapted",
        "--task",
        "beir",
        "--task",
        "pairs.tsv",
        "-o",
        "scores/adapted",
        "--name",
        "adapted",
        *LOADING,
    ],
    ["evaluate", "bm25", "--task", "beir", "-o", "scores/bm25"],
    ["compare", "hybrid.trec", "words.trec", "--task", "beir", "--output", "comparison.json", "--flips", "500"],
    ["mine", "train.jsonl", "--corpus", "corpus.jsonl", "--set=mine.bm25=true", "-o", "mined.jsonl"],
    ["read", "corpus.jsonl", "-o", "read.jsonl"],
    # As deep as the place that it is copied to, because it finds its folder and its model by relative paths.
    ["sync", "notes", "kept/library", "--model", "adapted", *LOADING],
    ["compact", "adapted", "-o", "compact"],
]


class Site:
    """A folder with a clean set of inputs, and the place where an attack finds a copy of it."""

    def __init__(self, home: Path) -> None:
        self.home, self.clean, self.place, self.log = home, home / "clean", home / "site", home / "log"
        home.mkdir(parents=True, exist_ok=True)

    def make(self) -> None:
        """Make every input, each command in a child."""
        if (self.clean / ".made").exists():
            return
        shutil.rmtree(self.clean, ignore_errors=True)
        (self.clean / "disk").mkdir(parents=True)
        child = Child([], self.clean, self.log, prepare=lambda: (_write_raw(self.clean), os._exit(0)))
        assert child.end().code == 0, child.end().err
        # All are made at the place where they are used, because models are found by their path.
        self.place.unlink(missing_ok=True) if self.place.is_symlink() else shutil.rmtree(self.place, ignore_errors=True)
        self.clean.rename(self.place)
        for argv in _MADE:
            ended = Child(argv, self.place, self.log).end()
            assert ended.code == 0, (argv, ended)
        shutil.rmtree(self.place / "disk")
        (self.place / "disk").mkdir()
        # After the first sync: one document is new, one has changed, one has gone.
        (self.place / "notes/new.md").write_text("# Harbor\n\nThe silver engine of the harbor.\n", encoding="utf-8")
        (self.place / "notes/note0.txt").write_text("The copper lantern of the captain.\n", encoding="utf-8")
        (self.place / "notes/note3.txt").unlink()
        # A sync reads files of the last seconds again, whatever their time says.
        for note in (self.place / "notes").iterdir():
            os.utime(note, (10**9, 10**9))
        _unfinished(self)
        (self.place / ".made").touch()
        self.place.rename(self.clean)

    def reset(self) -> Path:
        """Return the place with a fresh copy of every input."""
        shutil.rmtree(self.place, ignore_errors=True)
        shutil.copytree(self.clean, self.place, symlinks=True)
        return self.place


def _unfinished(site: Site) -> None:
    """Leave a training that was killed after its second checkpoint, to be resumed."""
    # Where it is resumed, because its checkpoints note the path.
    made = site.place / "disk/out"
    child = Child([*ADAPT, "-o", "disk/out"], site.place, site.log)
    child.wait(until=lambda: (made / "checkpoints/checkpoint-4/complete.json").exists())
    child.kill()
    assert not (made / "model.safetensors").exists(), "it was too quick to be killed"
    made.rename(site.place / "half")
    (site.place / "disk/.lock-out").unlink(missing_ok=True)


def _write_raw(folder: Path) -> None:
    """Write what users bring: a tiny random model, texts, labels, a recipe."""
    from .tiny import save_tiny_model, sentence

    draw = random.Random(1)
    rows = [
        {"_id": f"doc{number // 4}-{number % 4}", "title": "", "text": " ".join(sentence(draw) for _ in range(3))}
        for number in range(24)
    ]  # fmt: skip
    asked = [{"_id": f"q{number}", "text": " ".join(row["text"].split()[1:6])} for number, row in enumerate(rows[::3])]
    judged = [f"q{number}\t{row['_id']}\t1" for number, row in enumerate(rows[::3])]
    labeled = [
        {"query": asked[number]["text"], "pos": [row["text"]], "neg": [rows[(number * 7 + 11) % 24]["text"]]}
        for number, row in enumerate(rows[::3])
    ]
    more = [{"_id": f"new{number}", "title": "", "text": sentence(draw)} for number in range(3)]
    pairs = [f"{row['text'][:40]}\t{rows[(n * 5) % 24]['text'][:40]}\t{n % 6}" for n, row in enumerate(rows)]
    for path in ("notes", "beir/qrels"):
        (folder / path).mkdir(parents=True)
    for number, row in enumerate(rows[:4]):
        (folder / f"notes/note{number}.txt").write_text(row["text"] + "\n", encoding="utf-8")
    for name, content in {
        "corpus.jsonl": map(json.dumps, rows),
        "newer.jsonl": map(json.dumps, [*rows[4:], *more]),
        "train.jsonl": map(json.dumps, labeled),
        "queries.jsonl": map(json.dumps, asked),
        "beir/corpus.jsonl": map(json.dumps, rows),
        "beir/queries.jsonl": map(json.dumps, asked),
        "beir/qrels/test.tsv": ["query-id\tcorpus-id\tscore", *judged],
        "pairs.tsv": ["sentence1\tsentence2\tscore", *pairs],
        "recipe.toml": [RECIPE],
    }.items():  # fmt: skip
        (folder / name).write_text("\n".join(content) + "\n", encoding="utf-8")
    save_tiny_model(folder / "llm", [row["text"] for row in rows])
