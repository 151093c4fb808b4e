"""What is checked before the first stage begins."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from llama2vec.config import load_config
from llama2vec.errors import ConfigError, CorpusFormatError, Llama2VecError, MissingDependencyError
from llama2vec.pipeline.execution import check_inputs, execute
from llama2vec.pipeline.plan import RunPlan, plan_run
from llama2vec.pipeline.settings import RunConfig


def planned(llama_folder: Path, corpus: Path, output: Path, *overrides: str) -> RunPlan:
    base = [f"model.name={llama_folder}", "model.device=cpu", "model.dtype=float32", f"corpus={corpus}"]
    return plan_run(load_config(RunConfig, None, [*base, *overrides]), output)


def test_a_faulty_line_at_the_end_of_the_corpus_shows_before_anything_is_written(
    llama_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(corpus_file.read_text(encoding="utf-8") + "{broken\n", encoding="utf-8")
    plan = planned(llama_folder, corpus, tmp_path / "run", "encode=true")
    with pytest.raises(CorpusFormatError, match=r"corpus\.jsonl:25 is not JSON"):
        execute(plan)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("override", "package", "extra"),
    [
        ("adapt=true", "peft", "train"),
        ("adapt=true", "sentencex", "train"),
        ("index={bm25=true}", "bm25s", "search"),
        ("index={kind='faiss-flat'}", "faiss", "search"),
    ],
)
def test_a_missing_package_shows_before_the_first_stage(
    llama_folder: Path, corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, override: str, package: str,
    extra: str,
) -> None:  # fmt: skip
    plan = planned(llama_folder, corpus_file, tmp_path / "run", "encode=true", override)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    with pytest.raises(
        MissingDependencyError, match=rf"needs the package {package}; pip install 'llama2vec\[{extra}\]'"
    ):
        check_inputs(plan, list(plan.stages))


def test_an_attention_that_cannot_adapt_is_refused(llama_folder: Path, corpus_file: Path, tmp_path: Path) -> None:
    plan = planned(llama_folder, corpus_file, tmp_path, "adapt=true", "model.attention=flex_attention")
    with pytest.raises(ConfigError, match=r"adapt\.model\.attention: flex_attention cannot adapt"):
        check_inputs(plan, list(plan.stages))


def test_a_later_stage_needs_the_finished_output_of_the_earlier_one(
    llama_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    plan = planned(llama_folder, corpus_file, tmp_path / "run", "encode=true", "index=true")
    with pytest.raises(Llama2VecError, match="index reads store, which encode has not finished"):
        execute(plan, first="index")
