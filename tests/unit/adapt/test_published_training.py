"""Stage 1 gives the losses and gradient norms that the authors' own code gave, over six steps of its optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from published_numbers import NUMBERS, published_llama, published_prompts

from llama2vec.adapt.reading import JointReader, Reader, SeparateReader
from llama2vec.adapt.settings import AdaptConfig
from llama2vec.adapt.train import PretextObjective
from llama2vec.config import load_config
from llama2vec.pretext.targets import TokenizedText
from llama2vec.records import AdaptationExample
from llama2vec.training.loop import train
from llama2vec.training.orders import EpochOrder
from llama2vec.training.state import read_log

GIVEN = NUMBERS["adapt"]


class InOrder(EpochOrder):
    """Rows as they come."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))

    def __len__(self) -> int:
        return len(GIVEN["rows"])


class Tokens:
    """Stands in for a tokenizer: T of row 3 is named "T 3", U "U 3"."""

    def __call__(self, texts: Sequence[str]) -> list[TokenizedText]:
        rows = [(GIVEN["rows"][int(text[2:])], text.startswith("T")) for text in texts]
        return [TokenizedText(tuple(row["text"]), tuple(row["self" if is_text else "next"])) for row, is_text in rows]


@pytest.mark.parametrize("joint", [True, False])
def test_the_released_recipe_trains_as_the_authors_code_does(
    joint: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama2vec.training.loop.draw_losses", lambda *_: None)
    steps = len(GIVEN["losses"])
    config = load_config(AdaptConfig, "published-released", [
        f"optimizer.steps={steps}", f"optimizer.batch_size={GIVEN['batch_size']}", "optimizer.accumulation=1",
        f"optimizer.learning_rate={GIVEN['learning_rate']}", "optimizer.log_every=1",
    ])  # fmt: skip
    model = published_llama()
    reader: Reader = JointReader(model.config, torch.float32) if joint else SeparateReader(pad_id=0)
    tokens: Any = Tokens()
    objective = PretextObjective(tokens, published_prompts(), config.objective, reader, pad_id=0)
    monkeypatch.setattr(objective, "order", lambda *_: InOrder(0))
    examples = [AdaptationExample(f"T {row}", f"U {row}") for row in range(len(GIVEN["rows"]))]
    train(model, examples, [], objective, config.optimizer, tmp_path / "out")
    lines = read_log(tmp_path / "out" / "log.jsonl")
    assert [line["loss"] for line in lines] == pytest.approx(GIVEN["losses"], abs=1e-5)
    assert [line["gradient_norm"] for line in lines] == pytest.approx(GIVEN["gradient_norms"], rel=1e-5)
