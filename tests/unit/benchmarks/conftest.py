"""A toy study: a tiny random model, two small sets, and hand-made results."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.study.cells import Arm, Cell
from benchmarks.study.protocol import Protocol, load_protocol
from benchmarks.study.results import Results, no_results

TOY = """
name = "toy"
model = "{model}"
prompt_of = {{ none = "self", ebae = "self", ebar = "next", both = "self" }}

[sets]
retrieval = ["one", "two"]
average = ["one", "two"]
sts = ["pairs.tsv"]
max_tokens = 32
max_queries = 6
judged = 1
extra_passages = 4

[adaptation]
corpus = "text.jsonl"
recipe = "{recipe}"

[adaptation.recipes]
paper = ["prompts=paper"]
released = ["prompts=released", "objective.language_model_weight=1.0"]

[finetuning]
overrides = ["data.passage_max_tokens=16", "validation.share=0", "optimizer.validate_every=0",
    "encoder.layers=2", "model.lora.rank=2"]
steps = 2
batch_size = 4
sources = ["labels.jsonl", "one"]
pairs_per_source = 10
corpus_sets = ["one", "two"]
corpus_pairs = 6

[plan]
seeds = [0]
steps = 2
steps_curve = [1]
pairs_curve = [8]

[estimates]
adaptation_step = 60.0
finetuning_step = 120.0
set = 30.0
"""

RECIPE = """
[model]
lora = { rank = 2 }

[text]
min_words = 4
max_words = 12
max_tokens = 24
held_out = 0.0

[optimizer]
steps = 2
batch_size = 4
validate_every = 0

[encoder]
layers = 2
"""


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _beir_set(folder: Path, texts: list[str], draw: random.Random) -> None:
    """Each query is two words of the passage that answers it; half of them are for training."""
    _write(folder / "corpus.jsonl", ({"_id": f"d{row}", "title": "", "text": text} for row, text in enumerate(texts)))
    asked = [" ".join(draw.sample(text.split(), 2)) for text in texts]
    _write(folder / "queries.jsonl", ({"_id": f"q{row}", "text": text} for row, text in enumerate(asked)))
    (folder / "qrels").mkdir()
    for split, rows in (("test", range(0, len(texts), 2)), ("train", range(1, len(texts), 2))):
        lines = "".join(f"q{row}\td{row}\t1\n" for row in rows)
        (folder / "qrels" / f"{split}.tsv").write_text(f"query-id\tcorpus-id\tscore\n{lines}", encoding="utf-8")


@pytest.fixture(scope="session")
def toy_data(sentences: list[str], corpus_rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data of the toy study; read only."""
    folder = tmp_path_factory.mktemp("data")
    draw = random.Random(3)
    _beir_set(folder / "one", sentences[:20], draw)
    _beir_set(folder / "two", sentences[20:44], draw)
    _write(folder / "text.jsonl", corpus_rows)
    labels = ({"query": " ".join(text.split()[1:4]), "pos": [text], "neg": []} for text in sentences[44:])
    _write(folder / "labels.jsonl", labels)
    lines = "".join(
        f"{first}\t{second}\t{draw.random() * 5:.2f}\n"
        for first, second in zip(sentences, sentences[7:27], strict=False)
    )
    (folder / "pairs.tsv").write_text(f"sentence1\tsentence2\tscore\n{lines}", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def toy_file(llama_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy budget as TOML."""
    folder = tmp_path_factory.mktemp("budget")
    (folder / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    path = folder / "toy.toml"
    path.write_text(TOY.format(model=llama_folder, recipe=folder / "recipe.toml"), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def toy(toy_file: Path) -> Protocol:
    """The toy budget."""
    return load_protocol(str(toy_file))


@pytest.fixture
def made_results() -> Callable[..., Results]:
    """Return a maker of results: (arm, seed) → set → values per query, of queries q0, q1, …"""

    def make(values: dict[tuple[Arm, int], dict[str, list[float]]], budget: str = "toy") -> Results:
        results = no_results()
        cells, sets = results["cells"].setdefault(budget, {}), results["sets"].setdefault(budget, {})
        for (arm, seed), by_set in values.items():
            scores = {}
            for task, one in by_set.items():
                sets[task] = {"queries": [f"q{place}" for place in range(len(one))], "passages": 9, "fingerprint": "f"}
                scores[task] = {
                    "nDCG@10": sum(one) / len(one),
                    "interval": [0, 1],
                    "values": one,
                    "seconds": 3,
                    "by": "m",
                }
            cells[Cell(arm, seed).key] = {"scores": scores, "training": {}}
        return results

    return make
