"""Fine-tuning variants on a tiny random model: the same pairs for each, and nothing held out among them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from encoders import encoder_for

from llama2vec.config import load_config
from llama2vec.data.examples.labeled import write_examples
from llama2vec.finetune.settings import FinetuneConfig
from llama2vec.records import TrainingExample


def test_every_variant_is_a_recipe() -> None:
    from benchmarks.quality.finetuning_variants import COMMON, PAIRS, VARIANTS

    recipes = {name: load_config(FinetuneConfig, None, [*COMMON, *changes]) for name, changes in VARIANTS.items()}
    assert all(one.optimizer.steps * one.optimizer.batch_size == PAIRS for one in recipes.values())
    assert len({one.model_dump_json() for one in recipes.values()}) == len(recipes)


def test_no_training_pair_shares_a_query_or_a_positive_with_a_held_out_one(tmp_path: Path) -> None:
    from benchmarks.quality.finetuning_variants import split_sources

    same = [TrainingExample(f"Query {row}", (f"passage {row // 2}",)) for row in range(40)]
    write_examples(same, tmp_path / "first.jsonl")
    write_examples(
        [TrainingExample(f"query  {row}", (f"other {row}",)) for row in range(40)], tmp_path / "second.jsonl"
    )
    searched, training = split_sources(tmp_path, ["first.jsonl", "second.jsonl"], 24, 0)
    held = [row for chosen, _ in searched.values() for row in chosen]
    assert len(held) == 40
    asked = {" ".join(row.query.casefold().split()) for row in held}
    answers = {text for row in held for text in row.positives}
    taken = [row for rows in training.values() for row in rows]
    assert taken
    assert not asked & {" ".join(row.query.casefold().split()) for row in taken}
    assert not answers & {text for row in taken for text in row.positives}
    assert split_sources(tmp_path, ["first.jsonl", "second.jsonl"], 24, 1)[0] == searched


def test_variants_read_the_same_pairs_and_are_made_once(
    llama_folder: Path, toy_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.quality import finetuning_variants

    start = encoder_for(llama_folder).save(tmp_path / "start")
    output, work = tmp_path / "variants.json", tmp_path / "work"
    tiny = ("optimizer.steps=2", "optimizer.batch_size=4", "model.lora.rank=2", "optimizer.save_every=1")
    command = ["--data", str(toy_data), "--model", str(start), "--work", str(work), "--output", str(output),
               "--sources", "labels.jsonl", "one", "--sts", "pairs.tsv", "--pairs", "8",
               *(part for term in tiny for part in ("--set", term))]  # fmt: skip
    finetuning_variants.main([*command, "--only", "base"])
    finetuning_variants.main([*command, "--only", "base", "NEXT for queries"])
    out = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in out] == ["start", "base", "NEXT for queries"]
    results = json.loads(output.read_text(encoding="utf-8"))["variants"]
    assert list(results) == ["start", "base", "NEXT for queries"]
    assert all(set(found["scores"]) == {"labels", "one", "pairs.tsv"} for found in results.values())
    plans = [
        json.loads((work / f"{name}-seed0" / "manifest.json").read_text()) for name in ("base", "NEXT-for-queries")
    ]
    assert [one["settings"]["encoder"]["query_prompt"] for one in plans] == ["self", "next"]
    assert plans[0]["inputs"] == plans[1]["inputs"]

    with pytest.raises(SystemExit):
        finetuning_variants.main([*command, "--seed", "1"])
    assert "was made with other settings (seed" in capsys.readouterr().err
