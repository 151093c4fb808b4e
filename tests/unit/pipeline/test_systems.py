"""The systems that a run scores, and the windows that they are scored with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llama2vec.config import load_config
from llama2vec.errors import ConfigError
from llama2vec.model.tokens import passage_reading
from llama2vec.pipeline.plan import plan_run
from llama2vec.pipeline.settings import RunConfig
from llama2vec.pipeline.systems import check_windows, read_documents_as


@pytest.fixture
def document_run(llama_folder: Path, corpus_file: Path, tmp_path: Path) -> list[str]:
    """A run that is scored on MS MARCO's documents; with their prompt, its encoders read 40 tokens."""
    folder = tmp_path / "data" / "msmarco-document"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text(json.dumps({"_id": "d", "text": "The river"}), encoding="utf-8")
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": "river"}), encoding="utf-8")
    (folder / "qrels" / "dev.tsv").write_text("q\td\t1\n", encoding="utf-8")
    return [
        f"model.name={llama_folder}", f"corpus={corpus_file}", "adapt=true", "pairs.from_corpus=true", "finetune=true",
        "encoder.passage_max_tokens=40", "encoder.count_prompt=true", 'evaluate.tasks=["msmarco/document/dev"]',
        f"evaluate.data_root={tmp_path / 'data'}",
    ]  # fmt: skip


def configured(*overrides: str) -> RunConfig:
    return load_config(RunConfig, None, overrides)


def test_windows_that_a_system_cannot_be_scored_with_are_refused_before_the_first_stage(
    document_run: list[str], tmp_path: Path
) -> None:
    _, reads = passage_reading(read_documents_as(configured(*document_run)))
    assert reads < 40
    refused = {
        ("window_tokens=41", "windows=maxp"): f"windows of 41 tokens are longer than the {reads} that adapted reads",
        (f"window_tokens={reads + 1}", "windows=maxp"): f"windows of {reads + 1} tokens are longer than the {reads}",
        ("stride=20",): "window_tokens and stride need windows; set windows=maxp or windows=firstp too",
        ("windows=firstp", "stride=20"): "stride needs several windows of a document; set windows=maxp",
        ("windows=maxp",): "bm25 has no limit that sizes windows; set window_tokens, counted in words",
        (
            "windows=maxp",
            "stride=41",
            'systems=["finetuned"]',
        ): f"the stride of 41 tokens does not fit windows of {reads}",
        ("window_tokens=41", 'systems=["hybrid"]'): "windows of 41 tokens are longer than",
    }
    for given, problem in refused.items():
        with pytest.raises(ConfigError, match=f"^evaluate: {problem}") as told:
            plan_run(configured(*document_run, *(f"evaluate.{one}" for one in given)), tmp_path / "run")
        assert "\n" not in str(told.value)
    for fits in (
        (), ("windows=firstp",), ("windows=firstp", f"window_tokens={reads}"),
        ("windows=maxp", 'systems=["adapted", "hybrid"]'), ("windows=maxp", f"window_tokens={reads}", "stride=8"),
    ):  # fmt: skip
        plan_run(configured(*document_run, *(f"evaluate.{one}" for one in fits)), tmp_path / "run")


def test_the_untrained_model_reads_as_its_own_settings_say(document_run: list[str]) -> None:
    # Mean pooling has no prompt behind the text, which leaves it more room.
    _, trained = passage_reading(read_documents_as(configured(*document_run)))
    sized = ["evaluate.windows=maxp", f"evaluate.window_tokens={trained + 1}"]
    check_windows(configured(*document_run, *sized, 'evaluate.systems=["raw", "bm25"]'))
    with pytest.raises(ConfigError, match="that finetuned reads of a text"):
        check_windows(configured(*document_run, *sized, 'evaluate.systems=["raw", "finetuned"]'))
