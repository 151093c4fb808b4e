"""What a mining would take is told before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_examples import write_corpus_and_pairs

from llama2vec.config import ModelSettings, load_config
from llama2vec.mine.inputs import MiningInputs
from llama2vec.mine.settings import MineSettings
from llama2vec.model.source import ModelSpec, resolve_model
from llama2vec.pipeline.estimates import PROCESS_BYTES
from llama2vec.pipeline.mining_estimate import estimate_mining


def test_a_model_takes_time_and_memory_and_bm25_alone_reads_the_same(llama_folder: Path, tmp_path: Path) -> None:
    files, loading = write_corpus_and_pairs(tmp_path), load_config(ModelSettings, None, ["device=cpu", "dtype=float32"])
    spec = ModelSpec.of_source(resolve_model(str(llama_folder)))
    inputs = MiningInputs(str(files["pairs"]), corpus=str(files["corpus"]))
    words = estimate_mining(inputs, files["output"], MineSettings())
    assert words.stage.seconds == 0
    assert words.stage.memory_bytes == pytest.approx(PROCESS_BYTES, rel=0.01)
    count = len(files["corpus"].read_text(encoding="utf-8").splitlines())
    assert words.notes[:2] == [
        f"{files['pairs']}: 6 queries with 6 positives and 0 negatives",
        f"{files['corpus']}: {count} passages to search",
    ]
    model = estimate_mining(inputs, files["output"], MineSettings(), spec, loading)
    assert model.notes[:2] == words.notes[:2]
    assert model.stage.seconds > 0
    assert model.stage.memory_bytes > words.stage.memory_bytes
    assert f"writes {files['output']} and {files['output']}.report.json; until then {files['output']}.store-… (" in (
        "\n".join(model.notes)
    )
    assert not files["output"].parent.exists()
