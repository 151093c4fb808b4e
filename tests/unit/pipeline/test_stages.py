"""The work of single stages."""

from __future__ import annotations

from pathlib import Path

import pytest

from llama2vec.config import load_config
from llama2vec.data.examples import read_examples
from llama2vec.pipeline.plan import Input, plan_run
from llama2vec.pipeline.settings import RunConfig
from llama2vec.pipeline.stages import load_encoder, work
from llama2vec.retrieve.store import VectorStore


def config_of(llama_folder: Path, corpus_file: Path, *overrides: str) -> RunConfig:
    base = [f"model.name={llama_folder}", "model.device=cpu", "model.dtype=float32", f"corpus={corpus_file}"]
    return load_config(RunConfig, None, [*base, *overrides])


def test_pairs_are_written_one_file_per_source(llama_folder: Path, corpus_file: Path, tmp_path: Path) -> None:
    labeled = tmp_path / "my pairs.v2.jsonl"
    labeled.write_text('{"query": "q", "pos": ["a"]}\n{"query": "r", "pos": ["b"]}\n', encoding="utf-8")
    sources = f'pairs.sources=[{{source="{labeled}", limit=1}}]'
    config = config_of(llama_folder, corpus_file, sources, "pairs.from_corpus=true")
    plan = plan_run(config, tmp_path / "run")
    work(plan, plan.stages[0])
    folder = plan.folder(plan.stages[0])
    assert sorted(path.name for path in folder.iterdir()) == ["01-my-pairs.jsonl", "corpus.jsonl"]
    assert [one.query for one in read_examples(folder / "01-my-pairs.jsonl")] == ["q"]
    assert len(list(read_examples(folder / "corpus.jsonl"))) > 20


def test_an_untrained_model_is_loaded_with_the_wording_of_the_recipe(
    llama_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    config = config_of(llama_folder, corpus_file, "prompts=released", "encoder.passage_max_tokens=33", "encode=true")
    plan = plan_run(config, tmp_path / "run")
    encoder = load_encoder(plan, Input("model", str(llama_folder)))
    assert encoder.contract.prompts == config.prompts
    assert encoder.contract.encoder.passage_max_tokens == 33


def test_encode_names_the_corpus_by_its_content(llama_folder: Path, corpus_file: Path, tmp_path: Path) -> None:
    plan = plan_run(config_of(llama_folder, corpus_file, "encode.shard_size=7"), tmp_path / "run")
    work(plan, plan.stages[0])
    store = VectorStore.open(tmp_path / "run" / "store")
    assert len(store) == 24
    assert store.source["fingerprint"] == plan.stages[0].input("corpus").fingerprint


@pytest.mark.parametrize("kind", ["exact", "faiss-flat"])
def test_index_is_built_over_the_store(llama_folder: Path, corpus_file: Path, tmp_path: Path, kind: str) -> None:
    plan = plan_run(config_of(llama_folder, corpus_file, "encode=true", f"index.kind={kind}"), tmp_path / "run")
    for stage in plan.stages:
        work(plan, stage)
    assert (tmp_path / "run" / "index" / "index.json").is_file()
