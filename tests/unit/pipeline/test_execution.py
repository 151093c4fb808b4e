"""What is checked before the first stage begins."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from llama2vec import artifact
from llama2vec.artifact import Kind
from llama2vec.config import load_config
from llama2vec.errors import (
    ConfigError,
    CorpusFormatError,
    Llama2VecError,
    MissingDependencyError,
    OutputExistsError,
    TrainingError,
)
from llama2vec.pipeline import record, stages
from llama2vec.pipeline.execution import _refuse_replacing, _settings_named_as_in_a_run, check_inputs, execute
from llama2vec.pipeline.plan import PlannedStage, RunPlan, plan_run
from llama2vec.pipeline.record import Decision
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


@pytest.fixture
def made(llama_folder: Path, corpus_file: Path, tmp_path: Path) -> tuple[RunPlan, RunPlan, Path]:
    """Return the plan of a finished run that made pairs, the plan of other pairs, and the folder of the pairs."""
    plans = [
        planned(llama_folder, corpus_file, tmp_path / "run", "pairs.from_corpus=true", f"pairs.seed={n}")
        for n in (0, 1)
    ]
    assert execute(plans[0]).actions == {"pairs": "run"}
    return plans[0], plans[1], tmp_path / "run" / "pairs"


def test_the_old_output_of_a_stage_stays_whole_until_the_new_one_is(
    made: tuple[RunPlan, RunPlan, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, other, folder = made
    old = (folder / "corpus.jsonl").read_bytes()
    write = stages.write_examples

    def fail(*arguments: Any, **options: Any) -> int:
        write(*arguments, **options)
        raise KeyboardInterrupt

    with pytest.raises(OutputExistsError, match=r"pairs\.seed"):
        execute(other)
    with monkeypatch.context() as patch:
        patch.setattr(stages, "write_examples", fail)
        with pytest.raises(KeyboardInterrupt):
            execute(other, overwrite=True)
    assert (folder / "corpus.jsonl").read_bytes() == old
    assert execute(other).actions == {"pairs": "resume"}
    assert (folder / "corpus.jsonl").read_bytes() != old
    assert sorted(path.name for path in folder.parent.iterdir()) == ["pairs", "run.json"]
    assert execute(other).actions == {"pairs": "skip"}


@pytest.mark.parametrize("after", [False, True])
def test_a_kill_at_the_swap_loses_neither_output(
    made: tuple[RunPlan, RunPlan, Path], monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    _, other, folder = made

    def killed(target: Path, new: Path, kind: Kind) -> None:
        if after:
            artifact.replace_output(target, new, kind)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(record, "replace_output", killed)
        with pytest.raises(KeyboardInterrupt):
            execute(other, overwrite=True)
    assert (folder / "corpus.jsonl").is_file()
    assert execute(other).actions == {"pairs": "skip"}
    assert sorted(path.name for path in folder.parent.iterdir()) == ["pairs", "run.json"]


def test_a_file_of_somebody_else_in_a_stage_is_never_replaced(made: tuple[RunPlan, RunPlan, Path]) -> None:
    first, other, folder = made
    (folder / "notes.txt").write_text("ideas", encoding="utf-8")
    with pytest.raises(OutputExistsError, match=r"pairs: holds notes\.txt, which llama2vec did not write"):
        execute(other, overwrite=True)
    assert (folder / "notes.txt").read_text(encoding="utf-8") == "ideas"
    assert execute(first).actions == {"pairs": "skip"}


def test_a_run_inside_its_corpus_is_refused(llama_folder: Path, corpus_file: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text(corpus_file.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(OutputExistsError, match=r"the output .*run lies inside the input .*texts"):
        execute(planned(llama_folder, texts, texts / "run", "encode=true"))
    assert [path.name for path in texts.iterdir()] == ["a.txt"]


def test_an_error_of_a_training_names_the_setting_as_the_run_knows_it(
    llama_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    plan = planned(llama_folder, corpus_file, tmp_path / "run", "adapt.optimizer.batch_size=5000")
    with pytest.raises(TrainingError, match=r"give more of them or lower adapt\.optimizer\.batch_size$"):
        execute(plan)


def test_only_settings_of_a_training_get_its_name() -> None:
    stage = PlannedStage("finetune", "finetune", "finetuned", {}, ())
    said = "data.jsonl and my/data.sources: set data.sources, or finetune.optimizer.steps, model.dtype"
    with pytest.raises(TrainingError) as raised, _settings_named_as_in_a_run(stage):
        raise TrainingError(said)
    assert str(raised.value) == said.replace("set data.sources", "set finetune.data.sources")


def test_a_run_whose_documents_changed_says_how_its_index_can_follow_them(llama_folder: Path, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "guide.md").write_text("# Guide\n\nThe river is wide.\n", encoding="utf-8")
    changed = Decision("replace", "corpus: the content differs", replaces=True)

    def refusal(corpus: Path, *stages: str) -> str:
        with pytest.raises(OutputExistsError, match="--overwrite to redo read") as caught:
            _refuse_replacing(planned(llama_folder, corpus, tmp_path / "run", *stages), "read", changed)
        return str(caught.value)

    model = tmp_path / "run" / "adapted"
    assert refusal(docs, "adapt=true", "encode=true").endswith(f"llama2vec sync {docs} INDEX --model {model}")
    assert "sync" not in refusal(docs, "encode=true")  # --overwrite keeps the vectors of texts that stayed
    assert "sync" not in refusal(docs, "adapt=true")
