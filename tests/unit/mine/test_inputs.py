"""Examples and passages are read as mining reads them, without a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_examples import write_corpus_and_pairs

from llama2vec.errors import ConfigError, CorpusFormatError
from llama2vec.mine.inputs import MiningInputs, read_inputs
from llama2vec.mine.settings import MineSettings


def test_passages_are_those_of_the_corpus_else_those_of_the_examples(tmp_path: Path) -> None:
    files = write_corpus_and_pairs(tmp_path)
    corpus = [json.loads(line)["_id"] for line in files["corpus"].read_text(encoding="utf-8").splitlines()]

    def unused() -> None:
        pytest.fail("loads the model")

    named = MiningInputs(str(files["pairs"]), corpus=str(files["corpus"]), encoder=unused)  # type: ignore[arg-type]
    examples, passages = read_inputs(named, files["output"], MineSettings())
    assert (len(examples), [one.id for one in passages]) == (6, corpus)
    _, passages = read_inputs(MiningInputs(str(files["pairs"])), files["output"], MineSettings())
    assert {one.text for one in passages} == {text for one in examples for text in (*one.positives, *one.negatives)}
    assert not files["output"].parent.exists()


def test_what_mining_refuses_is_refused(tmp_path: Path) -> None:
    files = write_corpus_and_pairs(tmp_path)
    inputs = MiningInputs(str(files["pairs"]), corpus=str(files["corpus"]))
    for settings, message in (
        (MineSettings(bm25=False), "nothing to mine with"),
        (MineSettings(first_rank=150), "the window begins at rank 150"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_inputs(inputs, files["output"], settings)
    with pytest.raises(CorpusFormatError, match="no such file"):
        read_inputs(MiningInputs(str(files["pairs"]), corpus="nowhere.jsonl"), files["output"], MineSettings())
