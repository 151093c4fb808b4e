"""A miniature of the paper: every stage of the published recipe, on two processes, to the last table."""

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

RECIPE = Path(__file__).parents[2] / "recipes" / "run-published-msmarco.toml"
STAGES = ["pairs", "adapt", "mine", "finetune", "encode", "index", "evaluate"]


@pytest.fixture
def msmarco(tmp_path: Path) -> Path:
    """A folder shaped like MS MARCO passage: titles, "-" where there is none, and judgments of four splits."""
    draw = random.Random(5)
    folder = tmp_path / "data" / "msmarco"
    (folder / "qrels").mkdir(parents=True)
    passages = [made_up_sentence(draw) for _ in range(40)]
    rows = [
        {"_id": str(number), "title": "-" if number % 4 == 0 else draw.choice(WORDS), "text": text}
        for number, text in enumerate(passages)
    ]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    queries = [{"_id": f"q{number}", "text": " ".join(passages[number].split()[1:5])} for number in range(20)]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries), encoding="utf-8")
    for split, asked in (
        ("train", range(12)),
        ("dev", range(12, 20)),
        ("dl19", range(12, 16)),
        ("dl20", range(16, 20)),
    ):
        lines = ["query-id\tcorpus-id\tscore", *(f"q{number}\t{number}\t1" for number in asked)]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    wikipedia = [
        {"_id": f"article{article}-{part}", "text": " ".join(made_up_sentence(draw) for _ in range(6))}
        for article in range(4)
        for part in range(3)
    ]
    (folder.parent / "wikipedia.jsonl").write_text(
        "".join(json.dumps(row) + "\n" for row in wikipedia), encoding="utf-8"
    )
    return folder


def test_two_processes_run_the_published_recipe_to_its_last_table(
    msmarco: Path, llama_folder: Path, tmp_path: Path
) -> None:
    # Only sizes are changed, and where things lie.
    small = [
        f'model.name="{llama_folder}"', "model.device=cpu", "model.dtype=float32", "model.gradient_checkpointing=false",
        "adapt.text.corpus=data/wikipedia.jsonl", "adapt.text.max_words=70", "adapt.optimizer.steps=2",
        "adapt.optimizer.batch_size=2", "adapt.optimizer.accumulation=1", "mine.negatives=6", "mine.last_rank=20",
        "finetune.contrastive.negatives=3", "finetune.optimizer.batch_size=3", "finetune.model.lora.rank=4",
    ]  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command += ["llama2vec.cli", "run", str(RECIPE), "--output", "out"]
    finished = subprocess.run(
        [*command, *(part for setting in small for part in ("--set", setting))],
        cwd=tmp_path, capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr[-3000:]
    out = tmp_path / "out"
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    assert [stage for stage in STAGES if stage in json.dumps(record)] == STAGES
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
