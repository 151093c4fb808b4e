"""A miniature of the paper: every stage of the published recipes, for passages and documents, to the last table."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import WORDS, made_up_sentence

pytestmark = pytest.mark.slow

RECIPES = Path(__file__).parents[2] / "recipes"
STAGES = ["pairs", "adapt", "mine", "finetune", "encode", "index", "evaluate"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Wikipedia, and what is like MS MARCO: titles, "-" where there is none, and judgments of four splits."""
    draw = random.Random(5)
    (tmp_path / "data").mkdir()
    passages = [made_up_sentence(draw) for _ in range(40)]
    titles = ["-" if number % 4 == 0 else draw.choice(WORDS) for number in range(40)]
    write_beir(tmp_path / "data" / "msmarco", passages, titles, passages)
    # Documents, of which a model reads the beginning alone.
    longer = [" ".join([*(made_up_sentence(draw) for _ in range(4)), passage]) for passage in passages]
    write_beir(tmp_path / "data" / "msmarco-document", longer, titles, passages)
    wikipedia = [
        {"_id": f"article{article}-{part}", "text": " ".join(made_up_sentence(draw) for _ in range(6))}
        for article in range(4)
        for part in range(3)
    ]
    (tmp_path / "data" / "wikipedia.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in wikipedia), encoding="utf-8"
    )
    return tmp_path / "data"


def write_beir(folder: Path, texts: list[str], titles: list[str], asked_of: list[str]) -> None:
    (folder / "qrels").mkdir(parents=True)
    rows = [
        {"_id": str(number), "title": title, "text": text}
        for number, (title, text) in enumerate(zip(titles, texts, strict=True))
    ]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    queries = [{"_id": f"q{number}", "text": " ".join(asked_of[number].split()[1:5])} for number in range(20)]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries), encoding="utf-8")
    for split, asked in (
        ("train", range(12)),
        ("dev", range(12, 20)),
        ("dl19", range(12, 16)),
        ("dl20", range(16, 20)),
    ):
        lines = ["query-id\tcorpus-id\tscore", *(f"q{number}\t{number}\t1" for number in asked)]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def run_recipe(name: str, model: Path, *more: str, processes: int) -> Path:
    """Run a recipe beside its data, with smaller sizes alone and other places; return its output."""
    small = [
        f'model.name="{model}"', "model.device=cpu", "model.dtype=float32", "model.gradient_checkpointing=false",
        "adapt.text.corpus=data/wikipedia.jsonl", "adapt.text.max_words=70", "adapt.optimizer.steps=2",
        "adapt.optimizer.batch_size=2", "adapt.optimizer.accumulation=1", "mine.negatives=6", "mine.last_rank=20",
        "finetune.contrastive.negatives=3", "finetune.optimizer.batch_size=3", "finetune.model.lora.rank=4", *more,
    ]  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*command, "-m"] if processes > 1 else [sys.executable, "-m"]
    command += ["llama2vec.cli", "run", str(RECIPES / f"{name}.toml"), "--output", "out"]
    finished = subprocess.run(
        [*command, *(part for setting in small for part in ("--set", setting))],
        capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr[-3000:]
    record = json.loads(Path("out", "run.json").read_text(encoding="utf-8"))
    assert [stage for stage in STAGES if stage in json.dumps(record)] == STAGES
    return Path("out")


def test_two_processes_run_the_published_recipe_to_its_last_table(
    data: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.parent)
    out = run_recipe("run-published-msmarco", llama_folder, processes=2)
    # Titles come first in positives and negatives, "-" included.
    [mined] = (out / "negatives").glob("*.jsonl")
    examples = [json.loads(line) for line in mined.read_text(encoding="utf-8").splitlines()]
    assert len(examples) == 12
    assert examples[0]["pos"][0].startswith("- The ")
    assert all(len(example["neg"]) == 6 for example in examples)
    titles = {text.split()[0] for example in examples for text in example["neg"]}
    assert "-" in titles
    assert titles <= {"-", *WORDS}
    contract = json.loads((out / "finetuned" / "llama2vec.json").read_text(encoding="utf-8"))
    ids = contract["token_ids"]
    around = {name: len(ids["prefix"]) + len(ids["suffixes"][name]) for name in ("self", "next")}
    # The encoder was made by the adaptation, whose sides both read SELF.
    assert contract["encoder"]["passage_max_tokens"] == 160 - around["self"]
    assert contract["encoder"]["query_max_tokens"] == 64 - around["self"]
    assert contract["encoder"]["query_prompt"] == "next"
    steps = [json.loads(line) for line in (out / "adapted" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert not any(name.startswith("validation") for line in steps for name in line)
    table = (out / "report" / "report.md").read_text(encoding="utf-8")
    for task in ("msmarco/passage/dev", "trec-dl/2019", "trec-dl/2020"):
        assert task in table
    for name in ("MRR@10", "R@1000", "nDCG@10", "R(rel=2)@1000", "AP(rel=2)", "adapted", "finetuned"):
        assert name in table


def test_the_recipe_for_documents_runs_to_its_last_table(
    data: Path, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.parent)
    out = run_recipe("run-published-msmarco-document", llama_folder, "encoder.passage_max_tokens=40", processes=1)
    contract = json.loads((out / "finetuned" / "llama2vec.json").read_text(encoding="utf-8"))
    results = {
        system: json.loads((out / "report" / system / "msmarco-document-dev.json").read_text(encoding="utf-8"))
        for system in ("bm25", "adapted", "finetuned")
    }
    reads = contract["encoder"]["passage_max_tokens"]
    assert reads < 40
    assert results["finetuned"]["settings"]["windows"] == {"kind": "firstp", "tokens": reads, "stride": reads}
    # BM25 searches the whole documents.
    assert results["bm25"]["settings"]["windows"] is None
    table = (out / "report" / "report.md").read_text(encoding="utf-8")
    for name in ("msmarco-document/dev", "MRR@100", "R@100", "adapted", "finetuned"):
        assert name in table
