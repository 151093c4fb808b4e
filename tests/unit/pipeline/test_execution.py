"""What is checked before the first stage begins."""

from __future__ import annotations

import importlib.util
import json
import logging
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from llama2vec import artifact
from llama2vec.artifact import Kind
from llama2vec.config import load_config
from llama2vec.errors import (
    ConfigError,
    CorpusFormatError,
    DataError,
    EvaluationError,
    ExampleFormatError,
    InputChangedError,
    Llama2VecError,
    MissingDependencyError,
    OutputExistsError,
    TrainingError,
)
from llama2vec.finetune import train as training
from llama2vec.finetune.validation import hold_out
from llama2vec.generate.writer import QuestionWriter
from llama2vec.mine import mining
from llama2vec.model.encoder import Encoder
from llama2vec.pipeline import record, stages
from llama2vec.pipeline.estimates import estimate_run
from llama2vec.pipeline.execution import _refuse_replacing, execute, read_all_inputs
from llama2vec.pipeline.plan import RunPlan, plan_run
from llama2vec.pipeline.record import Decision, RunRecord
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
        ("pairs.from_corpus=true", "sentencex", "model"),
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
        read_all_inputs(plan, list(plan.stages))


def test_a_run_that_cuts_documents_or_none_of_its_texts_into_sentences(
    llama_folder: Path, corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "guide.md").write_text("# Guide\n\nThe river is wide.\n", encoding="utf-8")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sentencex" else find(name))
    documents = planned(llama_folder, tmp_path / "docs", tmp_path / "run", "encode=true")
    with pytest.raises(MissingDependencyError, match=r"sentencex; pip install 'llama2vec\[model\]'"):
        read_all_inputs(documents, list(documents.stages))
    whole = [f"pairs.from_corpus.kinds.{kind}=0" for kind in ("first_sentence", "halves")]
    rows = planned(llama_folder, corpus_file, tmp_path / "run", "finetune=true", *whole)
    read_all_inputs(rows, list(rows.stages))


@pytest.fixture
def rows(corpus_rows: list[dict[str, str]], tmp_path: Path) -> Path:
    """Return a corpus whose fields have names of their own."""
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps({"key": row["_id"], "body": row["text"]}) for row in corpus_rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("settings", [("reading.{}", "encode=true"), ("adapt.reading.{}",), ("reading.{}", "adapt={}")])
def test_a_corpus_is_checked_with_the_fields_that_the_recipe_names(
    llama_folder: Path, rows: Path, tmp_path: Path, settings: tuple[str, ...]
) -> None:
    named = [settings[0].format(field) for field in ("id_field=key", "text_field=body")]
    plan = planned(llama_folder, rows, tmp_path / "run", *settings[1:], *named)
    read_all_inputs(plan, list(plan.stages))
    faulty = planned(llama_folder, rows, tmp_path / "run", *settings[1:], named[0], f"{named[1]}x")
    with pytest.raises(CorpusFormatError, match=r'rows\.jsonl:1 has no "bodyx"'):
        read_all_inputs(faulty, list(faulty.stages))


def test_documents_are_checked_as_the_recipe_reads_them(llama_folder: Path, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / "guide.md").write_text("# Guide\n\nThe river is wide.\n", encoding="utf-8")
    (docs / "photo.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00")
    plan = planned(llama_folder, docs, tmp_path / "run", "encode=true", "reading.strict=true")
    with pytest.raises(DataError, match=r"photo\.png"):
        execute(plan)
    assert not (tmp_path / "run").exists()


def beir_folder(folder: Path, judged: str = "1") -> Path:
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text('{"_id": "1", "text": "The river is wide."}\n', encoding="utf-8")
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "wide"}\n', encoding="utf-8")
    (folder / "qrels" / "dev.tsv").write_text(f"query-id\tcorpus-id\tscore\nq\t{judged}\t1\n", encoding="utf-8")
    return folder


def with_bodies(folder: Path) -> Path:
    """Name the texts of a BEIR folder ``body``."""
    for rows in folder.glob("*.jsonl"):
        rows.write_text(rows.read_text(encoding="utf-8").replace('"text"', '"body"'), encoding="utf-8")
    return folder


def test_a_task_in_a_folder_called_corpus_is_no_corpus_of_the_run(llama_folder: Path, tmp_path: Path) -> None:
    task = beir_folder(tmp_path / "corpus")
    plan = planned(llama_folder, task, tmp_path / "run", f'evaluate.tasks=["{task}:dev"]')
    read_all_inputs(plan, list(plan.stages))


def test_a_task_is_checked_and_estimated_with_the_fields_that_the_evaluation_names(
    llama_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    task = with_bodies(beir_folder(tmp_path / "task"))
    own = [f'evaluate.tasks=["{task}:dev"]', "encode=true"]
    plan = planned(llama_folder, corpus_file, tmp_path / "run", *own, "evaluate.reading.text_field=body")
    read_all_inputs(plan, list(plan.stages))
    assert f"{task}: 1 passage, " in "\n".join(estimate_run(plan, plan.stages, 1e11).assumptions)
    with pytest.raises(CorpusFormatError, match='has no "text"'):
        planned(llama_folder, corpus_file, tmp_path / "run", *own)


def test_the_validation_data_is_checked_with_the_fields_that_fine_tuning_names(
    llama_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    folder = with_bodies(beir_folder(tmp_path / "dev"))
    own = [f"finetune.validation.source={folder}", "finetune.validation.split=dev", "pairs.from_corpus=true"]
    plan = planned(llama_folder, corpus_file, tmp_path / "run", *own, "finetune.reading.text_field=body")
    read_all_inputs(plan, list(plan.stages))


def test_faults_in_the_validation_data_show_before_the_first_stage(
    llama_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    rows, folder = tmp_path / "held-out.jsonl", beir_folder(tmp_path / "dev", judged="gone")
    rows.write_text('{"query": "q", "pos": ["a"]}\n{"query": "r", "pos": []}\n', encoding="utf-8")

    def run_with(source: Path) -> None:
        named = f"finetune.validation.source={source}"
        execute(planned(llama_folder, corpus_file, tmp_path / "run", "pairs.from_corpus=true", named))

    with pytest.raises(ExampleFormatError, match=r"held-out\.jsonl:2"):
        run_with(rows)
    with pytest.raises(EvaluationError, match="dev: no judged passage is in the corpus"):
        run_with(folder)
    assert not (tmp_path / "run").exists()


def test_an_attention_that_cannot_adapt_is_refused(llama_folder: Path, corpus_file: Path, tmp_path: Path) -> None:
    plan = planned(llama_folder, corpus_file, tmp_path, "adapt=true", "model.attention=flex_attention")
    with pytest.raises(ConfigError, match=r"adapt\.model\.attention: flex_attention cannot adapt"):
        read_all_inputs(plan, list(plan.stages))


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


def test_a_corrected_filter_needs_no_new_questions(
    llama_folder: Path, corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loose = ["prompt='{passage}'", "round_trip=0", "max_words=999", "passages=6", "question_max_tokens=60"]
    loose += ["temperature=2", "passage_min_words=1", "top_p=1.0"]
    written: list[int] = []
    write = QuestionWriter.write

    def counting(self: QuestionWriter, passages: Any, seed: int) -> Any:
        written.append(len(passages))
        return write(self, passages, seed)

    monkeypatch.setattr(QuestionWriter, "write", counting)

    def plan(questions: int, min_words: int) -> RunPlan:
        settings = [*loose, f"questions={questions}", f"min_words={min_words}"]
        return planned(llama_folder, corpus_file, tmp_path / "run", *(f"pairs.generated.{one}" for one in settings))

    # Once in the folder itself, and once aside.
    for questions, calls in ((4, [6]), (5, [6, 6])):
        for min_words in (999, 998):
            with pytest.raises(DataError, match="none is left"):
                execute(plan(questions, min_words))
            assert written == calls
    for questions in (4, 5):
        assert execute(plan(questions, 1), overwrite=True).actions == {"pairs": "run" if questions == 4 else "replace"}
        folder = tmp_path / "run" / "pairs"
        names = sorted(one.name for one in folder.iterdir())
        assert [names[0], names[2:]] == ["generated.jsonl", ["generated.jsonl.report.json"]]
        assert names[1].startswith("generated.jsonl.questions-")
        assert sorted(one.name for one in folder.parent.iterdir()) == ["pairs", "run.json"]
        assert written == calls + ([6] if questions == 5 else [])


@pytest.fixture
def chain(
    llama_folder: Path, corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Callable[..., RunPlan], list[str]]:
    """Return the plan of a run that mines for some sources and generated questions, and a log of the costly steps."""
    loose = ["prompt='{passage}'", "round_trip=0", "max_words=999", "min_words=1", "passages=6", "top_p=1.0"]
    loose += ["temperature=2", "passage_min_words=1", "question_max_tokens=60", "questions=4"]
    made: list[str] = []
    write, mine = QuestionWriter.write, mining.mine

    def writes(self: QuestionWriter, passages: Any, seed: int) -> Any:
        made.append("questions")
        return write(self, passages, seed)

    def mines(examples: Any, *arguments: Any) -> Any:
        made.append(f"negatives of {len(examples)}")
        return mine(examples, *arguments)

    monkeypatch.setattr(QuestionWriter, "write", writes)
    monkeypatch.setattr(mining, "mine", mines)

    def plan(*names: str, more: tuple[str, ...] = (), generated: bool = True) -> RunPlan:
        sources = []
        for name in names:
            file = tmp_path / f"{name}.jsonl"
            rows = [{"query": f"{name[:1]} {number}", "pos": [f"river {number}"]} for number in range(ord(name[0]))]
            file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
            sources.append(str(file))
        chosen = [f"pairs.generated.{one}" for one in loose] if generated else []
        settings = [f"pairs.sources={json.dumps(sources)}", *chosen, "mine.negatives=1", *more]
        return planned(llama_folder, corpus_file, tmp_path / "run", *settings)

    return plan, made


def status(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in folder.iterdir()}


def test_another_source_leaves_what_was_generated_and_mined_as_it_is(
    chain: tuple[Callable[..., RunPlan], list[str]], tmp_path: Path
) -> None:
    plan, made = chain
    execute(plan("a"))
    assert [made.pop(0), made.pop(0)] == ["questions", "negatives of 97"]
    made.clear()
    pairs, negatives = tmp_path / "run" / "pairs", tmp_path / "run" / "negatives"
    before = status(pairs), status(negatives)
    assert execute(plan("a", "b"), overwrite=True).actions == {"pairs": "replace", "mine": "replace"}
    assert made == ["negatives of 98"]
    made.clear()
    after = status(pairs), status(negatives)
    again = {"01-a.jsonl"}  # Labeled pairs are copied again
    assert {name: node for name, node in after[0].items() if name in before[0].keys() - again} == {
        name: node for name, node in before[0].items() if name not in again
    }
    assert {name: node for name, node in after[1].items() if name in before[1]} == before[1]
    # Another filter asks for no question, and another window of ranks mines all files again.
    execute(plan("a", "b", more=("pairs.generated.max_words=998",)), overwrite=True)
    assert "questions" not in made
    made.clear()
    execute(plan("a", "b", more=("mine.last_rank=99",)), overwrite=True)
    assert len(made) == 3
    # What the recipe no longer names goes; the questions stay for a later change of mind.
    made.clear()
    execute(plan("a", generated=False, more=("mine.last_rank=99",)), overwrite=True)
    assert sorted(name for name in status(negatives) if name.endswith("l")) == ["01-a.jsonl"]
    assert sorted(name for name in status(pairs) if name.endswith("l")) == ["01-a.jsonl"]
    execute(plan("a", "b", more=("mine.last_rank=99",)), overwrite=True)
    assert "questions" not in made
    assert sorted(path.name for path in pairs.parent.iterdir()) == ["negatives", "pairs", "run.json"]


@pytest.mark.parametrize("place", [(record, "replace_output"), (stages, "write_examples"), (mining, "mine")])
@pytest.mark.parametrize("calls", [1, 2])
def test_a_kill_while_a_source_is_added_ends_in_what_an_undisturbed_run_makes(
    chain: tuple[Callable[..., RunPlan], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: tuple[Any, str],
    calls: int,
) -> None:
    plan, made = chain

    def results() -> dict[str, bytes]:
        return {path.parent.name + path.name: path.read_bytes() for path in (tmp_path / "run").glob("*/*.jsonl")}

    execute(plan("a", "b"))
    undisturbed = results()
    shutil.rmtree(tmp_path / "run")
    execute(plan("a"))
    made.clear()
    module, name = place
    real, left = getattr(module, name), [calls]

    def killed(*arguments: Any, **options: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, killed)
        with suppress(KeyboardInterrupt):
            execute(plan("a", "b"), overwrite=True)
    execute(plan("a", "b"), overwrite=True)
    assert results() == undisturbed
    assert "questions" not in made
    assert made.count("negatives of 97") == 0
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["negatives", "pairs", "run.json"]


def test_a_source_may_have_another_name(chain: tuple[Callable[..., RunPlan], list[str]], tmp_path: Path) -> None:
    plan, made = chain
    execute(plan("a", generated=False))
    made.clear()
    assert execute(plan("a-renamed", generated=False)).actions == {"pairs": "skip", "mine": "skip"}
    window = ("mine.last_rank=99",)
    actions = execute(plan("a-renamed", generated=False, more=window), overwrite=True).actions
    assert actions == {"pairs": "skip", "mine": "replace"}
    assert made == ["negatives of 97"]
    found = [path.name for path in (tmp_path / "run" / "negatives").glob("*.jsonl")]
    assert found == ["01-a-renamed.jsonl"]


def test_corrected_mining_needs_no_new_vectors(
    llama_folder: Path, corpus_file: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Encoder.load(str(llama_folder), device="cpu", dtype="float32").save(tmp_path / "encoder")

    def plan(negatives: int) -> RunPlan:
        settings = [
            "pairs.from_corpus=true",
            "mine.short=error",
            f"mine.negatives={negatives}",
            "mine.near_duplicate=0",
        ]
        return planned(tmp_path / "encoder", corpus_file, tmp_path / "run", *settings, "mine.max_share_of_positive=0")

    with pytest.raises(DataError, match="999"):
        execute(plan(999))
    (store,) = (tmp_path / "run" / "negatives").glob("corpus.jsonl.store-*")
    with caplog.at_level(logging.INFO):
        assert execute(plan(1), overwrite=True).actions == {"pairs": "skip", "mine": "replace"}
    assert f"{store.parent.with_name('.new-negatives') / store.name} is already done; nothing to do" in caplog.messages
    assert sorted(one.name for one in store.parent.iterdir()) == ["corpus.jsonl", "corpus.jsonl.report.json"]


def killed_in(monkeypatch: pytest.MonkeyPatch, place: Any, function: str, plan: RunPlan) -> None:
    """Execute a plan with ``--overwrite``, and kill it when it calls a function."""

    def killed(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(place, function, killed)
        with pytest.raises(KeyboardInterrupt):
            execute(plan, overwrite=True)


@pytest.mark.parametrize("chosen", ["encode.shard_size", "adapt.optimizer.steps"])
def test_a_replacement_that_was_whole_when_the_run_was_killed_is_not_made_again(
    llama_folder: Path, corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str
) -> None:
    short = ["adapt.optimizer.batch_size=4", "adapt.text.min_words=5"] if chosen.startswith("adapt") else []
    first, other = (
        planned(llama_folder, corpus_file, tmp_path / "run", f"{chosen}={number}", *short) for number in (2, 3)
    )
    (stage,) = first.stages
    execute(first)

    def status() -> list[tuple[int, int]]:
        return [(one.stat().st_ino, one.stat().st_mtime_ns) for one in sorted(first.folder(stage).iterdir())]

    before = status()
    killed_in(monkeypatch, RunRecord, "finish", other)
    made = status()
    assert made != before
    assert execute(other, overwrite=True).actions == {stage.name: "resume"}
    assert status() == made
    assert execute(other).actions == {stage.name: "skip"}


def test_a_replacement_that_was_cut_off_is_still_made(
    llama_folder: Path, corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, other = (
        planned(llama_folder, corpus_file, tmp_path / "run", f"encode.shard_size={number}") for number in (2, 3)
    )
    execute(first)

    killed_in(monkeypatch, stages, "write_store", other)
    assert execute(other).actions == {"encode": "resume"}
    assert json.loads((tmp_path / "run" / "store" / "store.json").read_bytes())["settings"]["shard_size"] == 3


def test_an_output_that_the_user_puts_back_may_still_be_replaced(
    llama_folder: Path, corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = ["adapt.optimizer.batch_size=4", "adapt.text.min_words=5", "adapt.optimizer.steps=2"]
    first = planned(llama_folder, corpus_file, tmp_path / "run", *settings)
    other = planned(llama_folder, corpus_file, tmp_path / "run", *settings[:2], "adapt.optimizer.steps=3")
    execute(first)
    contract = first.folder(first.stages[0]) / "llama2vec.json"
    kept = contract.read_bytes()
    contract.unlink()

    killed_in(monkeypatch, stages, "adapt_model", other)
    contract.write_bytes(kept)
    assert execute(other, overwrite=True).actions == {"adapt": "resume"}
    assert execute(other).actions == {"adapt": "skip"}


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


def test_no_round_trains_on_a_query_that_another_holds_out(
    llama_folder: Path, corpus_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    pairs = tmp_path / "pairs.jsonl"
    lines = [json.dumps({"query": f"query {row}", "pos": [f"answer {row // 2}"]}) for row in range(40)]
    pairs.write_text("\n".join(lines), encoding="utf-8")
    plan = planned(
        llama_folder, corpus_file, tmp_path / "run", f"pairs.sources=['{pairs}']", "mine.rounds=2", "mine.bm25=true",
        "mine.negatives=1", "finetune.contrastive.negatives=0", "finetune.optimizer.steps=1",
        "finetune.optimizer.batch_size=4", "finetune.validation.share=0.2", "finetune.model.lora.rank=2",
    )  # fmt: skip
    kept = stages.mine_to_file

    def dropping(inputs: Any, output: Path, *arguments: Any, **options: Any) -> Any:
        """Mine, and drop other queries in each round."""
        found = kept(inputs, output, *arguments, **options)
        rows = output.read_text(encoding="utf-8").splitlines()
        first = 12 if "negatives-2" in str(output) else 8
        output.write_text("\n".join([*rows[:first], *rows[first + 9 :]]), encoding="utf-8")
        return found

    monkeypatch.setattr(stages, "mine_to_file", dropping)
    rounds: list[tuple[set[str], set[str]]] = []

    def split(rows: Any, *arguments: Any) -> Any:
        inside, out = hold_out(rows, *arguments)
        rounds.append(({rows[row].query for row in inside}, {rows[row].query for row in out}))
        return inside, out

    monkeypatch.setattr(training, "hold_out", split)
    execute(plan)
    (trained, held), (trained_later, held_later) = rounds
    assert trained != trained_later
    assert held
    assert held_later
    assert trained.isdisjoint(held_later)
    assert trained_later.isdisjoint(held)
    (warned,) = {one.partition(":")[0] for one in caplog.messages if "contrastive.negatives is 0" in one}
    assert warned == "finetune.contrastive.negatives is 0"


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


def test_an_input_that_changed_since_the_run_was_planned_stops_the_stage_that_reads_it(
    llama_folder: Path, tmp_path: Path, saved_meanwhile: Callable[[Path, str, str], None]
) -> None:
    docs, run = tmp_path / "docs", tmp_path / "run"
    docs.mkdir()
    (docs / "guide.md").write_text("# Guide\n\nThe old river is wide.\n", encoding="utf-8")
    plan = planned(llama_folder, docs, run, "encode=true")
    (docs / "guide.md").write_text("# Guide\n\nThe newer river is wide.\n", encoding="utf-8")
    with pytest.raises(InputChangedError, match="docs changed while it was read"):
        execute(plan)
    assert list(RunRecord.open(run).stages) == []
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"_id": "1", "text": "The old river."}\n', encoding="utf-8")
    saved_meanwhile(rows, "old", "newer")
    with pytest.raises(InputChangedError, match=r"rows\.jsonl changed while it was read"):
        execute(planned(llama_folder, rows, run, "encode=true"))
