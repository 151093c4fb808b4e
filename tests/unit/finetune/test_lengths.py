"""How many texts of training data are longer than training reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from encoders import encoder_for

from llama2vec.config import EncoderSettings, load_config
from llama2vec.finetune.lengths import counting_cuts, training_limits
from llama2vec.finetune.settings import FinetuneConfig
from llama2vec.records import TrainingExample

LONG = "river stone bridge castle winter market " * 8
ROWS = [
    (TrainingExample(LONG, ("a stone", LONG), (LONG,)), 0),
    (TrainingExample("river", ("a bridge",), ("a castle", LONG)), 1),
]


def said(caplog: pytest.LogCaptureFixture, model: Path, *sets: str) -> Sequence[str]:
    caplog.clear()
    config = load_config(FinetuneConfig, None, [f"model.name={model}", *sets])
    assert list(counting_cuts(ROWS, config)) == ROWS
    return [line for line in caplog.messages if "reads only the beginning" in line]


def test_texts_that_training_cuts_are_counted_in_one_line_with_what_raises_each_limit(
    llama_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits = ("encoder.query_max_tokens=16", "encoder.passage_max_tokens=24")
    assert said(caplog, llama_folder, *limits, "contrastive.negatives=1") == [
        "training reads only the beginning of 1 of 2 queries (limit 16 tokens) and 3 of 6 passages (limit 24 tokens); "
        "raise encoder.query_max_tokens and raise encoder.passage_max_tokens"
    ]
    # Negatives that are never drawn are not read.
    assert "1 of 3 passages" in said(caplog, llama_folder, *limits, "contrastive.negatives=0")[0]
    own = said(caplog, llama_folder, "data.query_max_tokens=8", "encoder.passage_max_tokens=220")
    assert own == ["training reads only the beginning of 1 of 2 queries (limit 8 tokens); raise data.query_max_tokens"]
    assert not said(caplog, llama_folder, "encoder.query_max_tokens=220", "encoder.passage_max_tokens=220")


def test_the_limits_of_a_contract_cannot_be_raised(
    llama_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = EncoderSettings(query_max_tokens=10, passage_max_tokens=200)
    saved = encoder_for(llama_folder, settings=settings).save(tmp_path / "saved")
    (line,) = said(caplog, saved)
    assert line.endswith(
        "1 of 2 queries (limit 10 tokens); shorten the queries, because the model reads no more of them"
    )


def test_a_limit_that_counts_the_prompt_leaves_the_rest_to_the_text(llama_folder: Path) -> None:
    sets = [f"model.name={llama_folder}", "encoder.query_max_tokens=60", "encoder.count_prompt=true"]
    config = load_config(FinetuneConfig, None, sets)
    settings = EncoderSettings.model_validate(config.encoder.model_dump())
    encoder = encoder_for(llama_folder, config.prompts, settings)
    _, limits = training_limits(config)
    assert limits["query"].tokens == encoder.reading("query")[1] < 60
    assert limits["passage"].tokens == encoder.reading("passage")[1]
