"""The comparison with the authors' code: what of it needs neither their code nor their environment."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from benchmarks.fidelity import authors, authors_comparison
from benchmarks.fidelity.authors_comparison import Comparison, Sides, pretrain_rows, weight_differences
from benchmarks.fidelity.authors_side import fill_weights, provide_stop_words, tokens_of

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def sides(tmp_path: Path, llama_folder: Path) -> Sides:
    """Sides around a tiny model, whose authors' side nobody starts."""
    options = argparse.Namespace(
        checkout=tmp_path, python=sys.executable, tokenizer="", steps=20, batch_size=4, negatives=15, seed=0
    )
    made = Sides(tmp_path, options)
    made.model = llama_folder
    return made


def comparison(**changes: Any) -> Comparison:
    values: dict[str, Any] = {
        "training": "stage 1", "learning_rate": 1e-3, "rows": 4, "rows_with_the_same_tokens": 4,
        "losses": {"ours": [8.25, 8.0], "theirs": [8.25, 8.0]},
        "gradient_norms": {"ours": [1.5, 1.0], "theirs": [1.5, 1.0]},
        "largest_loss_difference": 0.0, "largest_norm_difference": 0.0, "largest_weight_difference": 2e-7,
        "largest_weight_change": 1e-2,
    }  # fmt: skip
    return Comparison(**{**values, **changes})


def test_rows_are_pairs_of_neighboring_pieces_of_the_lengths_asked_for() -> None:
    words = [f"w{number}" for number in range(100)]
    rows = pretrain_rows([" ".join(words[:60]), " ".join(words[60:])], 8, (5, 9), seed=1)
    assert len(rows) == 8
    assert all(row["input"] == row["output_summarize"] for row in rows)
    assert [row["output_predict"] for row in rows[:-1]] == [row["input"] for row in rows[1:]]
    assert all(5 <= len(row["input"].split()) <= 9 for row in rows)
    joined = " ".join([*(row["input"] for row in rows), rows[-1]["output_predict"]])
    assert joined.split() == words[: len(joined.split())]
    with pytest.raises(SystemExit, match=r"give \d+ rows and 80 are needed"):
        pretrain_rows([" ".join(words)], 80, (5, 9), seed=1)


def test_both_sides_agree_only_with_the_same_tokens_losses_and_norms() -> None:
    assert comparison().agrees
    assert comparison(largest_loss_difference=1e-4, largest_norm_difference=1e-4).agrees
    assert not comparison(rows_with_the_same_tokens=3).agrees
    assert not comparison(largest_loss_difference=2e-4).agrees
    assert not comparison(largest_norm_difference=2e-4).agrees


def test_weights_are_compared_with_theirs_and_with_the_start(tmp_path: Path) -> None:
    for name, value in (("ours", 1.5), ("theirs", 1.25), ("start", 0.5)):
        save_file({"head": torch.full((2, 2), value)}, tmp_path / name)
    assert weight_differences(*(tmp_path / name for name in ("ours", "theirs", "start"))) == (0.25, 1.0)
    # The second matrix of an adapter starts from zero, the first does not.
    for name, value in (("ours", 0.5), ("theirs", 0.375)):
        save_file({"q.lora_A.weight": torch.ones(2), "q.lora_B.weight": torch.full((2,), value)}, tmp_path / name)
    assert weight_differences(tmp_path / "ours", tmp_path / "theirs", None) == (0.125, 0.5)
    save_file({"other": torch.ones(2)}, tmp_path / "theirs")
    with pytest.raises(SystemExit, match="other names"):
        weight_differences(tmp_path / "ours", tmp_path / "theirs", None)


def test_padding_and_the_ids_that_their_loss_drops_are_left_out() -> None:
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    ids = torch.tensor([[0, 1, 7], [1, 8, 9]])
    batch = {
        "input_ids": ids, "attention_mask": mask, "output_summarize_ids": torch.tensor([[0, 1, 7, 7], [1, 9, 8, 2]]),
        "output_predict_ids": torch.tensor([[1, 5], [0, 1]]),
    }  # fmt: skip
    assert tokens_of(batch) == {"rows": [[1, 7], [1, 8, 9]], "self": [[7], [8, 9]], "next": [[5], []]}
    side = {"input_ids": ids, "attention_mask": mask}
    assert tokens_of({"query": side, "passage": side}) == {name: [[1, 7], [1, 8, 9]] for name in ("query", "passage")}


def test_weights_follow_from_seed_name_and_place() -> None:
    first, second = torch.nn.Linear(40, 30), torch.nn.Linear(40, 30)
    fill_weights(first, seed=0)
    fill_weights(second, seed=0)
    assert torch.equal(first.weight, second.weight)
    assert first.weight.double().std().item() == pytest.approx(0.14 / 3**0.5, rel=0.05)
    assert first.weight.double().mean().abs().item() < 0.01
    assert len(first.weight.unique()) > 1190
    fill_weights(second, seed=1)
    assert not torch.equal(first.weight, second.weight)


def test_ours_is_the_published_recipe_on_their_lengths(sides: Sides, tmp_path: Path) -> None:
    adapt = authors_comparison.adaptation_config(sides, tmp_path / "rows.jsonl", 1e-3)
    assert (adapt.prompts.recipe, adapt.text.max_tokens, adapt.text.count_prompts) == ("released", 128, True)
    assert (adapt.objective.language_model_weight, adapt.objective.pretext_weight) == (1.0, 0.1)
    assert (adapt.objective.targets, adapt.text.stop_words, adapt.model.lora.rank) == ("words", "nltk", 0)
    assert (adapt.optimizer.schedule, adapt.optimizer.warmup, adapt.optimizer.accumulation) == ("linear", 0.1, 1)
    lora, full = (
        authors_comparison.finetuning_config(sides, tmp_path / "rows.jsonl", lora=lora) for lora in (True, False)
    )
    assert (lora.model.lora.rank, lora.model.lora.alpha, lora.model.lora.dropout) == (64, 16, 0.0)
    assert full.model.lora.rank == 0
    joined = authors_comparison.finetuning_config(sides, tmp_path / "rows.jsonl", lora=True, processes=2)
    sizes = [(one.optimizer.batch_size, one.optimizer.max_grad_norm) for one in (lora, joined)]
    assert sizes == [(2, 1.0), (4, 2.0)]
    assert full.model_copy(update={"model": lora.model}) == lora
    assert (full.contrastive.temperature, full.contrastive.negatives) == (0.01, 15)
    assert (full.encoder.query_max_tokens, full.encoder.passage_max_tokens) == (64, 160)
    assert (full.encoder.count_prompt, full.encoder.query_prompt, full.prompts.slots) == (True, "next", 8)
    assert (full.validation.share, full.optimizer.schedule, full.optimizer.warmup) == (0.0, "linear", 0.1)


def test_a_failure_of_their_side_is_shown(sides: Sides) -> None:
    with pytest.raises(SystemExit, match=r"(?s)their side failed at finetune:.*No module named 'load_model'"):
        sides.train_theirs("finetune", sides.folder / "rows.jsonl", 1e-3)


def test_their_stop_words_are_read_from_ours_without_the_data_of_nltk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Missing:
        @staticmethod
        def words(_: str) -> list[str]:
            raise LookupError

    corpus = type(sys)("nltk.corpus")
    corpus.stopwords = Missing  # type: ignore[attr-defined]
    parent = type(sys)("nltk")
    parent.corpus = corpus  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "nltk", parent)
    monkeypatch.setitem(sys.modules, "nltk.corpus", corpus)
    (tmp_path / "words.txt").write_text("# source\nthe\ndon't\n", encoding="utf-8")
    assert provide_stop_words(tmp_path / "words.txt").startswith("words.txt, 2 words")
    assert authors_comparison.STOP_WORDS.is_file()
    assert corpus.stopwords.words("english") == ["the", "don't"]


def test_the_table_has_both_sides_of_each_step() -> None:
    lines = authors.table(comparison(losses={"ours": [8.25, 8.5], "theirs": [8.0, 8.125]})).splitlines()
    assert lines[0] == "stage 1, learning rate 0.001: 4 of 4 rows with the same tokens"
    assert lines[4:6] == [
        "| 1 | 8.000000 | 8.250000 | 1.500000 | 1.500000 |",
        "| 2 | 8.125000 | 8.500000 | 1.000000 | 1.000000 |",
    ]


def test_the_fixture_holds_the_texts_without_prompts_and_the_first_contrastive_step(sides: Sides) -> None:
    sides.versions, sides.options.negatives = {"transformers": "4.41.0"}, 1
    batch = {"rows": [[1, 5, 30, 31, 8, 9]], "self": [[30]], "next": [[]]}
    contrastive = {"query": [[1, 40], [1, 41]], "passage": [[1, 50], [1, 51], [1, 52], [1, 53]]}
    sides.seen = {
        "prompts": {"prefix": (1, 5), "self": (8,), "next": (9,)},
        "pretrain": {"batches": [batch], "losses": [8.0], "gradient_norms": [1.5]},
        "finetune": {"batches": [contrastive], "losses": [30.0, 20.0], "gradient_norms": [400.0, 300.0]},
    }
    found = json.loads(json.dumps(authors.fixture(sides, [comparison()])))
    assert found["adapt"]["rows"] == [{"text": [30, 31], "self": [30], "next": []}]
    assert found["finetune"]["passages"] == [[[1, 50], [1, 51]], [[1, 52], [1, 53]]]
    assert (found["finetune"]["loss"], found["finetune"]["gradient_norm"]) == (30.0, 400.0)


def test_the_pages_tables_come_from_the_results(tmp_path: Path) -> None:
    from docs import results_tables as tables

    found = [
        comparison(losses={"ours": [8.25, 8.5], "theirs": [8.0, 8.125]}),
        comparison(training="stage 2, LoRA", losses={"ours": [30.5, 20.0], "theirs": [30.25, 20.0]}),
        comparison(training="stage 2, every weight", losses={"ours": [30.5], "theirs": [30.25]}),
    ]
    made = json.dumps({"comparisons": [dataclasses.asdict(one) for one in found]})
    for name in ("authors.json", "authors-llama-2-tokenizer.json"):
        (tmp_path / name).write_text(made, encoding="utf-8")
    page = tables.render("<!-- table: authors-steps stage 2 -->\n<!-- end -->\n", tmp_path)
    assert "| step | LoRA: theirs | ours | every weight: theirs | ours |\n|---|---|---|---|---|\n" in page
    assert "| 1 | 30.250000 | 30.500000 | 30.250000 | 30.500000 |\n| 2 | 20.000000 | 20.000000 |  |  |\n<!--" in page
    page = tables.render("<!-- table: authors-steps stage 1 -->\n<!-- end -->\n", tmp_path)
    assert "| step | rate 0.001: theirs | ours |" in page
    assert "| 2 | 8.125000 | 8.500000 |" in page
    page = tables.render("<!-- table: authors -->\n<!-- end -->\n", tmp_path)
    assert page.count("| stage 2, LoRA | 0.001 | ") == 2
    assert "| 4 of 4 | 0.0e+00 | 0.0e+00 | 2.0e-07 | 1.0e-02 |" in page
    (tmp_path / "authors.json").unlink()
    with pytest.raises(
        tables.TableError, match=r"authors\.json cannot be read .*run python -m benchmarks\.fidelity\.authors"
    ):
        tables.render("<!-- table: authors -->\n<!-- end -->\n", tmp_path)
