"""The LLM that writes: what it reads, and what of its tokens is the question."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llama2vec.config import ModelSettings
from llama2vec.errors import ConfigError, ModelError
from llama2vec.generate.settings import GenerateSettings
from llama2vec.generate.writer import QuestionWriter
from llama2vec.model.backbone import CHANGED_TOP, Backbone, load_backbone

TEXTS = ["The castle stands above the river.", "Snow.", "A stone\nbridge"]
GREEDY = GenerateSettings(prompt="Text: {passage}\nQ:", questions=1, temperature=0, question_max_tokens=8)
DRAWN = GREEDY.model_copy(update={"questions": 3, "temperature": 1.0})


@pytest.fixture
def backbone(llama_folder: Path) -> Backbone:
    return load_backbone(ModelSettings(name=str(llama_folder), dtype="float32", device="cpu"))


def answered(backbone: Backbone, monkeypatch: pytest.MonkeyPatch, *answers: str) -> list[dict[str, Any]]:
    """Let the model answer with these texts, in rows padded at their end; return what it is asked."""
    asked: list[dict[str, Any]] = []
    rows = [backbone.tokenizer(text, add_special_tokens=False)["input_ids"] for text in answers]

    def generate(**given: Any) -> torch.Tensor:
        asked.append(given)
        longest = max(map(len, rows))
        ends = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
        return torch.cat([given["input_ids"].repeat_interleave(len(rows) // len(given["input_ids"]), 0), ends], dim=1)

    monkeypatch.setattr(backbone.model, "generate", generate)
    return asked


def test_each_text_gets_its_questions_and_a_seed_repeats_them(
    backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = QuestionWriter(backbone, DRAWN)
    monkeypatch.setattr(writer, "_question", lambda ids: " ".join(map(str, ids)))
    found = writer.write(TEXTS, seed=1)
    assert [len(questions) for questions in found] == [3, 3, 3]
    assert len({question for questions in found for question in questions}) > 3
    state = torch.random.get_rng_state()
    assert writer.write(TEXTS, seed=1) == found != writer.write(TEXTS, seed=2)
    assert torch.equal(torch.random.get_rng_state(), state)  # of whoever else draws numbers


def test_padding_changes_nothing(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = QuestionWriter(backbone, GREEDY)
    monkeypatch.setattr(writer, "_question", lambda ids: " ".join(map(str, ids)))
    together = writer.write(TEXTS, seed=0)
    assert together == [writer.write([text], seed=0)[0] for text in TEXTS]
    backbone.padding_changes_vectors = True
    assert writer.write(TEXTS, seed=0) == together


def test_the_question_ends_with_its_line_or_with_the_text(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ("  which  river\nPassage: more", "what snow</s>", "a question without end", "\nlater")
    asked = answered(backbone, monkeypatch, *answers)
    settings = GREEDY.model_copy(update={"questions": 2, "temperature": 1.0})
    found = QuestionWriter(backbone, settings).write(TEXTS[:2], seed=0)
    assert found == [["which river", "what snow"], ["", ""]]
    read = backbone.tokenizer.batch_decode(asked[0]["input_ids"])
    assert read[0].endswith("<s>Text: The castle stands above the river.\nQ:")
    assert read[1].startswith("<pad>")
    assert asked[0]["attention_mask"].sum(dim=1).tolist() == [
        int((row != backbone.tokenizer.pad_token_id).sum()) for row in asked[0]["input_ids"]
    ]


def test_a_passage_is_one_line_and_is_cut(backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answered(backbone, monkeypatch, "which\n")
    QuestionWriter(backbone, GREEDY.model_copy(update={"passage_max_tokens": 8})).write(["A stone\nbridge over it"], 0)
    (row,) = asked[0]["input_ids"].tolist()
    text = backbone.tokenizer("A stone bridge over it", add_special_tokens=False)["input_ids"][:8]
    assert backbone.tokenizer.decode(row) == f"<s>Text: {backbone.tokenizer.decode(text)}\nQ:"


def test_passages_that_are_cut_are_counted(backbone: Backbone, caplog: pytest.LogCaptureFixture) -> None:
    writer = QuestionWriter(backbone, GREEDY.model_copy(update={"passage_max_tokens": 8}))
    writer.warn_of_cut(["A stone", "A stone\nbridge over the river Inn"])
    assert (
        "reads only the beginning of 1 of 2 passages (50 %), and the rest of each after 8 tokens is not" in caplog.text
    )
    caplog.clear()
    writer.warn_of_cut(["A stone"])
    assert not caplog.text


def test_the_context_bounds_the_passage(backbone: Backbone, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        QuestionWriter(backbone, GREEDY.model_copy(update={"passage_max_tokens": 1000}))
    assert "passage_max_tokens is cut to" in caplog.text
    with pytest.raises(ConfigError, match=r"leaves 0 of the 256 tokens"):
        QuestionWriter(backbone, GREEDY.model_copy(update={"prompt": "word " * 300 + "{passage}"}))


def test_a_model_that_cannot_write_is_refused(backbone: Backbone) -> None:
    setattr(backbone.model.config, CHANGED_TOP, {"dropped_layers": 1})
    with pytest.raises(ModelError, match=r"generate needs a model without that"):
        QuestionWriter(backbone, GREEDY)


@pytest.mark.parametrize("kind", ["gpt2", "qwen3", "gemma"])
def test_other_architectures_write(kind: str, save_model: Callable[..., Path], tmp_path: Path) -> None:
    folder = save_model(tmp_path / kind, kind)
    backbone = load_backbone(ModelSettings(name=str(folder), dtype="float32", device="cpu"))
    assert [len(one) for one in QuestionWriter(backbone, DRAWN).write(TEXTS, seed=0)] == [3, 3, 3]
