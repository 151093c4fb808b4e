"""Tasks scored into a folder: resumed, kept, averaged, refused if something does not fit."""

from __future__ import annotations

import errno
import logging
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from word_encoder import (
    LIMIT,
    PASSAGES,
    QRELS,
    QUERIES,
    WordEncoder,
    evaluate,
    options,
    saved,
    system,
    write_task,
)

from llama2vec import files
from llama2vec.artifact import owned
from llama2vec.config import PromptSettings
from llama2vec.data.settings import ReadingSettings
from llama2vec.data.tasks.trec import read_qrels, read_run
from llama2vec.errors import (
    ConfigError,
    DataError,
    EvaluationError,
    MissingDependencyError,
    OutputExistsError,
    RunFormatError,
    StoreError,
)
from llama2vec.records import Query, Run
from llama2vec.score.evaluator import encode_tasks
from llama2vec.score.metrics import evaluate_run
from llama2vec.score.report.text import family_averages, task_table
from llama2vec.score.systems import SearchMode, System
from llama2vec.score.tasks import TASKS, Task


def test_a_task_leaves_scores_values_per_query_and_a_run_that_agree(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "beir" / "scifact")
    encoder = WordEncoder()
    [score] = evaluate(system(encoder), ["beir/scifact"], options(tmp_path))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "beir-scifact.json", "beir-scifact.per-query.tsv", "beir-scifact.trec"
    }  # fmt: skip
    run = read_run(tmp_path / "out" / "beir-scifact.trec")
    again = evaluate_run(run, read_qrels(folder / "qrels" / "test.tsv"), metrics=TASKS["beir/scifact"].metrics)
    found = saved(tmp_path, "beir-scifact")
    assert (found["task"], found["system"], run.tag) == ("beir/scifact", "words", "words")
    assert found["metrics"] == again.metrics == score.report.metrics
    lines = (tmp_path / "out" / "beir-scifact.per-query.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[0].split("\t") == ["query", "system", "metric", "value"]
    assert len(lines) == 1 + 3 * 3
    facts = found["settings"]
    assert facts["contract_hash"] == "c0ffee"
    assert facts["encoder"]["passage_max_tokens"] == LIMIT
    assert facts["prompts"] == PromptSettings().model_dump()
    assert facts["versions"].keys() >= {"python", "llama2vec", "numpy"}
    assert (facts["source"], facts["depth"], facts["passages"]) == (str(folder), 1000, 5)
    assert re.fullmatch("[0-9a-f]{64}", facts["corpus_fingerprint"])
    assert found["seconds"] >= 0
    assert encoder.read == list(PASSAGES)


def test_tasks_over_one_corpus_encode_it_once_and_leave_no_store(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "msmarco", split="dl19")
    write_task(folder, split="dl20")
    encoder = WordEncoder()
    evaluate(system(encoder), ["trec-dl/2019", "trec-dl/2020"], options(tmp_path))
    assert encoder.read == list(PASSAGES)
    assert not (tmp_path / "out" / ".unfinished").exists()


def test_corpora_can_be_encoded_first_and_scored_later(tmp_path: Path) -> None:
    write_task(tmp_path / "scifact")
    encoder = WordEncoder()
    given = options(tmp_path, stores=tmp_path / "stores", windows="maxp")
    [store] = encode_tasks(system(encoder), ["beir/scifact"], tmp_path / "stores", given.settings)
    assert (len(store), encoder.read) == (5, [f"{name}#0" for name in PASSAGES])
    assert not (tmp_path / "out").exists()
    evaluate(system(encoder), ["beir/scifact"], given)
    assert len(encoder.read) == 5
    # A damaged store is written anew.
    next(store.path.glob("*.vectors.npy")).write_bytes(b"")
    evaluate(
        system(encoder), ["beir/scifact"], options(tmp_path, stores=tmp_path / "stores", windows="maxp", overwrite=True)
    )
    assert len(encoder.read) == 10
    with pytest.raises(ConfigError, match="bm25 does not encode; give a model"):
        encode_tasks(system(name="bm25"), ["beir/scifact"], tmp_path / "stores")


def test_finished_tasks_are_skipped_and_said_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_task(tmp_path / "beir" / "scifact")
    write_task(tmp_path / "beir" / "nfcorpus")
    first = evaluate(system(WordEncoder()), ["beir/scifact"], options(tmp_path))
    before = (tmp_path / "out" / "beir-scifact.json").read_bytes()
    encoder = WordEncoder()
    caplog.set_level(logging.INFO)
    scores = evaluate(system(encoder), ["beir/scifact", "beir/nfcorpus"], options(tmp_path))
    assert [score.result.kept for score in scores] == [True, False]
    assert "beir/scifact: already done" in caplog.messages
    assert scores[0].report.metrics == first[0].report.metrics
    assert (tmp_path / "out" / "beir-scifact.json").read_bytes() == before
    assert len(encoder.read) == 5


def test_a_killed_evaluation_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_task(tmp_path / "beir" / "scifact")
    write_task(tmp_path / "beir" / "nfcorpus", {f"p{n}": "a river" for n in range(20)}, QUERIES, {"q1": {"p3": 1}})
    monkeypatch.setattr("llama2vec.score.systems._SHARD_SIZE", 4)
    names = ["beir/scifact", "beir/nfcorpus"]

    class Killed(WordEncoder):
        def encode_passages(self, passages: Any, /) -> npt.NDArray[np.float32]:
            if passages[0].id == "p8":
                raise KeyboardInterrupt
            return super().encode_passages(passages)

    with pytest.raises(KeyboardInterrupt):
        evaluate(system(Killed()), names, options(tmp_path))
    assert (tmp_path / "out" / "beir-scifact.json").is_file()
    assert not (tmp_path / "out" / "beir-nfcorpus.json").exists()
    encoder = WordEncoder()
    scores = evaluate(system(encoder), names, options(tmp_path))
    assert encoder.read == [f"p{n}" for n in range(8, 20)]
    assert [score.result.kept for score in scores] == [True, False]
    whole = evaluate(system(WordEncoder()), names, options(tmp_path, "whole"))
    assert [score.report.metrics for score in whole] == [score.report.metrics for score in scores]
    assert not (tmp_path / "out" / ".unfinished").exists()


def test_a_corpus_that_is_saved_while_it_is_read_is_not_scored(
    tmp_path: Path, saved_meanwhile: Callable[[Path, str, str], None]
) -> None:
    folder = write_task(tmp_path / "beir" / "scifact")
    saved_meanwhile(folder / "corpus.jsonl", '"text": "', '"text": "so ')
    for asked in (system(WordEncoder()), System("bm25")):
        with pytest.raises(DataError, match="changed while it was read"):
            evaluate(asked, ["beir/scifact"], options(tmp_path, asked.name))
        write_task(folder)


@pytest.mark.parametrize("part", ["corpus", "queries", "qrels"])
def test_data_that_changed_since_is_refused_and_scored_anew_when_asked(tmp_path: Path, part: str) -> None:
    folder = write_task(tmp_path / "beir" / "scifact")
    evaluate(system(WordEncoder()), ["beir/scifact"], options(tmp_path))
    before = saved(tmp_path, "beir-scifact")
    changed = {
        "corpus": {"passages": {**PASSAGES, "d6": "new"}},
        "queries": {"queries": {**QUERIES, "q1": "market"}},
        "qrels": {"qrels": {**QRELS, "q2": {"d3": 1}}},
    }[part]
    write_task(folder, **changed)  # type: ignore[arg-type]
    what = "corpus" if part == "corpus" else "queries or judgments"
    with pytest.raises(EvaluationError, match=f"beir/scifact: the {what} changed since .*json was made .*--overwrite"):
        evaluate(system(WordEncoder()), ["beir/scifact"], options(tmp_path))
    assert saved(tmp_path, "beir-scifact") == before
    [score] = evaluate(system(WordEncoder()), ["beir/scifact"], options(tmp_path, overwrite=True))
    assert not score.result.kept
    assert saved(tmp_path, "beir-scifact")["settings"] != before["settings"]


@pytest.mark.parametrize(
    ("encoder", "changes", "problem"),
    [
        (WordEncoder("0ther"), {}, "contract_hash 'c0ffee', and now it is '0ther'"),
        (WordEncoder(), {"depth": 300}, "depth 1000, and now it is 300"),
        (WordEncoder(), {"metrics": ["AP"]}, r"metrics \[.*, and now it is \['AP'\]"),
        (WordEncoder(), {"windows": "maxp"}, "windows None, and now it is"),
    ],
)
def test_scores_of_another_model_or_other_settings_are_not_replaced(
    tmp_path: Path, encoder: Any, changes: dict[str, Any], problem: str
) -> None:
    write_task(tmp_path / "scifact")
    evaluate(system(WordEncoder()), ["beir/scifact"], options(tmp_path))
    with pytest.raises(EvaluationError, match=rf"beir-scifact\.json was made with {problem}.*--overwrite"):
        evaluate(system(encoder), ["beir/scifact"], options(tmp_path, **changes))


@pytest.mark.parametrize(
    ("before", "changes", "problem"),
    [
        (system(WordEncoder(), mode="hybrid"), {}, "search"),
        (system(WordEncoder()), {"reading": ReadingSettings(text_field="text", title_field="name")}, "reading"),
        (system(WordEncoder()), {}, "contract_hash"),
    ],
)
def test_scores_made_with_a_choice_are_not_those_of_the_default(
    tmp_path: Path, before: System, changes: dict[str, Any], problem: str
) -> None:
    write_task(tmp_path / "scifact")
    evaluate(before, ["beir/scifact"], options(tmp_path, **changes))
    now = system() if problem == "contract_hash" else system(WordEncoder())
    with pytest.raises(EvaluationError, match=rf"beir-scifact\.json was made with {problem} .*, and now it is None"):
        evaluate(now, ["beir/scifact"], options(tmp_path))


def test_scores_of_a_run_and_of_bm25_are_told_apart_in_either_order(tmp_path: Path) -> None:
    write_task(tmp_path / "scifact")
    run = System("words", run=Run({query: {"d1": 1.0} for query in QUERIES}, "words"))
    for name, order in {"a": (run, system()), "b": (system(), run)}.items():
        evaluate(order[0], ["beir/scifact"], options(tmp_path, name))
        with pytest.raises(EvaluationError, match=r"was made with (encoder|run_sha256)"):
            evaluate(order[1], ["beir/scifact"], options(tmp_path, name))


@pytest.mark.parametrize("written", ["trec", "per-query.tsv", "json"])
def test_older_scores_stay_whole_until_all_new_ones_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    for name in ("scifact", "nfcorpus"):
        write_task(tmp_path / name)
    tasks, out = ["beir/scifact", "beir/nfcorpus"], tmp_path / "out"
    evaluate(system(WordEncoder()), tasks, options(tmp_path))
    (out / "notes.md").write_text("mine", encoding="utf-8")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    write = files.write_atomic

    def full(path: Path, *arguments: Any, **options: Any) -> Any:
        if path.name == f"beir-nfcorpus.{written}":
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, *arguments, **options)

    monkeypatch.setattr(files, "write_atomic", full)
    with pytest.raises(DataError, match="disk full while writing"):
        evaluate(system(WordEncoder()), tasks, options(tmp_path, overwrite=True, depth=200))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert [path.name for path in (tmp_path / ".new-out").iterdir()] == [".unfinished"]
    assert all(path.is_dir() for path in (tmp_path / ".new-out" / ".unfinished").iterdir())
    monkeypatch.undo()
    encoder = WordEncoder()
    scores = evaluate(system(encoder), tasks, options(tmp_path, overwrite=True, depth=200))
    assert encoder.read == []  # what the failed attempt encoded serves the next one
    assert [score.result.report.settings["depth"] for score in scores] == [200, 200]
    assert {path.name for path in out.iterdir()} == before.keys()
    assert (out / "notes.md").read_text(encoding="utf-8") == "mine"
    assert not (tmp_path / ".new-out").exists()


def test_what_appears_beside_older_scores_while_new_ones_are_made_stays(tmp_path: Path) -> None:
    write_task(tmp_path / "scifact")
    out = tmp_path / "out"
    evaluate(system(WordEncoder()), ["beir/scifact"], options(tmp_path))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "plot.png").write_text("plot", encoding="utf-8")
    (out / "plots").symlink_to("../elsewhere")
    (out / "gone").symlink_to("nowhere")
    (out / "folder").mkdir()
    for name in ("notes.md", "folder/a.md"):
        (out / name).write_text("old", encoding="utf-8")

    class Watched(WordEncoder):
        def encode_queries(self, queries: Any, /) -> npt.NDArray[np.float32]:
            (out / "comparison.json").write_text("{}", encoding="utf-8")
            (out / "folder" / "b.md").write_text("new", encoding="utf-8")
            for name in ("notes.md", "folder/a.md"):
                files.write_atomic(out / name, b"new")
            return super().encode_queries(queries)

    evaluate(system(Watched()), ["beir/scifact"], options(tmp_path, overwrite=True, depth=200))
    assert saved(tmp_path, "beir-scifact")["settings"]["depth"] == 200
    assert (out / "comparison.json").read_text(encoding="utf-8") == "{}"
    for name in ("notes.md", "folder/a.md", "folder/b.md"):
        assert (out / name).read_text(encoding="utf-8") == "new"
    assert [str((out / name).readlink()) for name in ("plots", "gone")] == ["../elsewhere", "nowhere"]
    assert {path.name for path in out.iterdir()} == {
        "beir-scifact.json", "beir-scifact.per-query.tsv", "beir-scifact.trec",
        "comparison.json", "notes.md", "folder", "plots", "gone",
    }  # fmt: skip


@pytest.mark.parametrize("overwrite", [False, True])
def test_files_of_somebody_else_are_not_replaced(tmp_path: Path, overwrite: bool) -> None:
    write_task(tmp_path / "scifact")
    (tmp_path / "out").mkdir()
    for name, content in (
        ("json", "mine"), ("json", "{}"), ("json", '{"a": []}'), ("trec", "q Q0 d 1 1.0 mine"), ("per-query.tsv", "")
    ):  # fmt: skip
        file = tmp_path / "out" / f"beir-scifact.{name}"
        file.write_text(content, encoding="utf-8")
        with pytest.raises(OutputExistsError, match=r"beir-scifact\..*; move it away, or choose another --output"):
            evaluate(system(WordEncoder()), ["beir/scifact"], options(tmp_path, overwrite=overwrite))
        assert file.read_text(encoding="utf-8") == content
        file.unlink()


def test_a_folder_has_one_writer_at_a_time(tmp_path: Path) -> None:
    write_task(tmp_path / "scifact")
    (tmp_path / "out").mkdir()
    encoder = WordEncoder()
    with owned(tmp_path / "out"), pytest.raises(OutputExistsError, match="is writing it; wait for it"):
        evaluate(system(encoder), ["beir/scifact"], options(tmp_path))
    assert encoder.read == []
    evaluate(system(encoder), ["beir/scifact"], options(tmp_path))
    # What is finished can be read while somebody writes.
    with owned(tmp_path / "out"):
        assert evaluate(system(encoder), ["beir/scifact"], options(tmp_path))[0].result.kept


def test_killed_between_its_files_a_task_is_scored_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_task(tmp_path / "scifact")

    def kill(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("llama2vec.score.results.write_sealed_json", kill)
        with pytest.raises(KeyboardInterrupt):
            evaluate(system(WordEncoder()), ["beir/scifact"], options(tmp_path))
    assert (tmp_path / "out" / "beir-scifact.trec").is_file()
    assert not evaluate(system(WordEncoder()), ["beir/scifact"], options(tmp_path))[0].result.kept
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".json", ".tsv", ".trec"}


@pytest.mark.parametrize("one", [system(WordEncoder()), system(name="bm25"), system(WordEncoder(), mode="hybrid")])
@pytest.mark.parametrize("windows", [None, "maxp"])
def test_a_depth_beyond_the_corpus_finds_all_of_it(tmp_path: Path, one: System, windows: Any) -> None:
    write_task(tmp_path / "scifact")
    sizes = {} if windows is None else {"windows": windows, "window_tokens": 4}
    [score] = evaluate(one, ["beir/scifact"], options(tmp_path, depth=2**31 - 1, **sizes))
    assert score.report.settings["depth"] == 2**31 - 1
    assert score.report.metrics["R@100"] == 1.0


def test_a_task_whose_run_was_deleted_is_scored_again(tmp_path: Path) -> None:
    write_task(tmp_path / "scifact")
    evaluate(system(WordEncoder()), ["beir/scifact"], options(tmp_path))
    (tmp_path / "out" / "beir-scifact.trec").unlink()
    [score] = evaluate(system(WordEncoder()), ["beir/scifact"], options(tmp_path))
    assert not score.result.kept
    assert (tmp_path / "out" / "beir-scifact.trec").is_file()


def test_a_system_that_finds_nothing_at_all_is_not_scored(tmp_path: Path) -> None:
    write_task(tmp_path / "scifact", queries=dict.fromkeys(QUERIES, "unheard"))
    with pytest.raises(EvaluationError, match="beir/scifact: bm25 finds nothing for any query of 3"):
        evaluate(system(name="bm25"), ["beir/scifact"], options(tmp_path))
    assert not (tmp_path / "out" / "beir-scifact.json").exists()


def test_windows_longer_than_the_encoder_reads_are_refused(tmp_path: Path) -> None:
    write_task(tmp_path / "scifact")
    with pytest.raises(ConfigError, match=f"windows of 9 tokens are longer than the {LIMIT} that words reads"):
        evaluate(system(WordEncoder()), ["beir/scifact"], options(tmp_path, windows="maxp", window_tokens=9))
    with pytest.raises(ConfigError, match="window_tokens and stride need windows; set windows=maxp"):
        evaluate(system(WordEncoder()), ["beir/scifact"], options(tmp_path, window_tokens=4))


@pytest.fixture
def forums(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """Make the average of two small forums, of different sizes, a task."""
    tasks = dict(TASKS)
    names = []
    for name in ("android", "tex"):
        task = TASKS[f"beir/cqadupstack/{name}"]
        tasks[task.name] = task
        names.append(task.name)
        write_task(tmp_path / task.places[0])
    worse = {"q1": {"d3": 1}, "q2": {"d3": 1}, "q3": {"d5": 1}}
    write_task(tmp_path / TASKS["beir/cqadupstack/tex"].places[0], qrels=worse)
    tasks["beir/two"] = Task("beir/two", "retrieval", ("nDCG@10", "MRR@10"), members=tuple(names))
    monkeypatch.setattr("llama2vec.score.tasks.TASKS", tasks)
    monkeypatch.setattr("llama2vec.score.evaluator.TASKS", tasks)

    def delete() -> None:
        for file in (tmp_path / "out").glob("beir-two.*"):
            file.unlink()

    return delete


def test_members_are_scored_by_themselves_and_averaged(tmp_path: Path, forums: Callable[[], None]) -> None:
    given = options(tmp_path, metrics=["nDCG@10", "MRR@10"])
    [score] = evaluate(system(WordEncoder()), ["beir/two"], given)
    members = [saved(tmp_path, f"beir-cqadupstack-{name}")["metrics"] for name in ("android", "tex")]
    assert members[0]["nDCG@10"] != members[1]["nDCG@10"]
    found = saved(tmp_path, "beir-two")
    for metric in ("nDCG@10", "MRR@10"):
        mean = (members[0][metric] + members[1][metric]) / 2
        assert found["metrics"][metric] == score.report.metrics[metric] == pytest.approx(mean)
        low, high = found["intervals"][metric]
        assert low < mean < high
    assert found["settings"]["member_metrics"]["beir/cqadupstack/tex"] == members[1]
    lines = (tmp_path / "out" / "beir-two.per-query.tsv").read_text(encoding="utf-8").splitlines()[1:]
    assert len(lines) == 2 * 6
    assert not (tmp_path / "out" / "beir-two.trec").exists()
    before = (tmp_path / "out" / "beir-two.json").read_bytes()
    assert evaluate(system(WordEncoder()), ["beir/two"], given)[0].result.kept
    assert (tmp_path / "out" / "beir-two.json").read_bytes() == before
    # Whatever the average lacks is written by the owner of the folder, which leaves no mark.
    (tmp_path / "out" / "beir-two.per-query.tsv").unlink()
    with owned(tmp_path / "out"), pytest.raises(OutputExistsError, match="is writing it"):
        evaluate(system(WordEncoder()), ["beir/two"], given)
    evaluate(system(WordEncoder()), ["beir/two"], given)
    assert (tmp_path / "out" / "beir-two.per-query.tsv").is_file()
    assert not (tmp_path / "out" / ".unfinished").exists()
    # Killed between the last member and the average: the values are read back from the disk.
    forums()
    encoder = WordEncoder()
    [again] = evaluate(system(encoder), ["beir/two"], given)
    assert (again.report.metrics, again.report.intervals) == (score.report.metrics, score.report.intervals)
    assert encoder.read == []


def test_a_folder_of_ones_own_leaves_queries_out_that_are_passages_themselves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    passages = {"1": "river stone", "2": "river bridge"}
    folder = write_task(tmp_path / "mine", passages, {"1": "river stone"}, {"1": {"2": 1}})
    [score] = evaluate(system(WordEncoder()), [str(folder)], options(tmp_path))
    assert score.report.settings["excluded_same_id"] is True
    assert score.report.metrics["MRR@10"] == 1.0
    assert "the passage of the same id is excluded for 1 query (exclude_same_id=false keeps it)" in caplog.text
    # The same id with another text is another thing.
    write_task(folder, passages, {"1": "bridge"}, {"1": {"2": 1}})
    given = options(tmp_path, "other")
    assert evaluate(system(WordEncoder()), [str(folder)], given)[0].report.settings["excluded_same_id"] is False


def test_one_query_that_is_a_passage_leaves_the_passages_of_other_queries_in(tmp_path: Path) -> None:
    passages = {"1": "river stone", "2": "bridge castle", "3": "river"}
    queries = {"1": "river stone", "2": "castle"}
    folder = write_task(tmp_path / "mine", passages, queries, {"1": {"3": 1}, "2": {"2": 1}})
    for one in (system(WordEncoder()), system(name="bm25"), system(WordEncoder(), mode="hybrid")):
        for windows in (None, "maxp"):
            sizes = {} if windows is None else {"windows": windows, "window_tokens": 4}
            name = f"{one.name}-{one.mode}-{windows}"
            [score] = evaluate(one, [str(folder)], options(tmp_path, name, **sizes))
            assert score.report.per_query["MRR@10"] == {"1": 1.0, "2": 1.0}
            assert "1" not in read_run(tmp_path / name / "mine-test.trec").results["1"]


def test_a_query_that_should_find_what_is_left_out_is_refused(tmp_path: Path) -> None:
    folder = write_task(tmp_path / "mine", {"1": "river", "2": "stone"}, {"1": "river"}, {"1": {"1": 1}})
    with pytest.raises(
        EvaluationError, match="mine/test: the passage '1' is judged relevant for the query of the same"
    ):
        evaluate(system(WordEncoder()), [str(folder)], options(tmp_path))
    given = options(tmp_path, exclude_same_id=False)
    assert evaluate(system(WordEncoder()), [str(folder)], given)[0].report.metrics["MRR@10"] == 1.0


def refused(tmp_path: Path, names: list[str], error: type[Exception], match: str, **changes: Any) -> WordEncoder:
    """Evaluate what must fail before anything is encoded or written."""
    encoder = WordEncoder()
    with pytest.raises(error, match=match) as told:
        evaluate(system(encoder), names, options(tmp_path, **changes))
    assert "\n" not in str(told.value)
    assert encoder.read == []
    assert not (tmp_path / "out").exists()
    return encoder


def test_every_task_is_checked_before_the_first_is_encoded(tmp_path: Path) -> None:
    write_task(tmp_path / "scifact")
    faulty = write_task(tmp_path / "faulty")
    names = ["beir/scifact", str(faulty)]
    (faulty / "corpus.jsonl").write_text('{"_id": "d1", "text": "x"}\n{"text": "no id"}\n', encoding="utf-8")
    refused(tmp_path, names, DataError, r'corpus\.jsonl:2 has no "_id"')
    write_task(faulty, qrels={"q1": {"d1": 1, "gone": 1}})
    refused(tmp_path, names, EvaluationError, r"1 passage \('gone'\) missing from the corpus")
    write_task(faulty, qrels={"q9": {"d1": 1}})
    refused(tmp_path, names, DataError, r"judges 1 query \('q9'\) that the query file lacks")
    write_task(faulty, passages={**PASSAGES, "two words": "x"})
    refused(tmp_path, names, RunFormatError, "the passage 'two words' holds a space or")
    refused(tmp_path, ["beir/scifact", "beir/scfact"], ConfigError, "did you mean 'beir/scifact'")
    refused(tmp_path, ["beir/scifact"], EvaluationError, r"no metric 'nDGC@10'", metrics=["nDGC@10"])
    refused(tmp_path, [], ConfigError, "nothing to evaluate")


def test_two_folders_of_one_name_do_not_write_over_each_other(tmp_path: Path) -> None:
    names = [str(write_task(tmp_path / place / "mine")) for place in ("a", "b")]
    refused(tmp_path, names, ConfigError, r"two tasks would be written to mine-test\.json")


def test_a_published_set_may_have_lost_few_passages_and_not_many(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    passages = {f"p{number}": "a river" for number in range(39)}
    judged = {"q1": {**dict.fromkeys(passages, 1), "lost": 1}}
    write_task(tmp_path / "scifact", passages, QUERIES, judged)
    [score] = evaluate(system(WordEncoder()), ["beir/scifact"], options(tmp_path))
    assert "beir/scifact: the corpus lacks 1 judged passage" in caplog.messages
    assert score.report.settings["lost_passages"] == 1
    write_task(tmp_path / "scifact", {"p0": "a river"}, QUERIES, judged)
    with pytest.raises(EvaluationError, match=r"39 passages .* missing from the corpus"):
        evaluate(system(WordEncoder()), ["beir/scifact"], options(tmp_path, "other"))


def test_vectors_that_are_not_finite_are_refused_and_nothing_counts_as_finished(tmp_path: Path) -> None:
    write_task(tmp_path / "scifact")
    with pytest.raises(StoreError, match="the vector of passage 'd1' is not finite"):
        evaluate(system(WordEncoder(fault=np.nan)), ["beir/scifact"], options(tmp_path))

    class FaultyQueries(WordEncoder):
        def encode_queries(self, queries: Sequence[Query] | Sequence[str], /) -> npt.NDArray[np.float32]:
            return super().encode_queries(queries) * np.float32(np.nan)

    for windows in (None, "maxp"):
        given: Any = {"windows": windows}
        with pytest.raises(StoreError, match="the vector of query 1 of 3 is not finite"):
            evaluate(system(FaultyQueries()), ["beir/scifact"], options(tmp_path, **given))
        assert not (tmp_path / "out" / "beir-scifact.json").exists()


def test_a_name_that_a_run_cannot_hold_is_refused_at_once(tmp_path: Path) -> None:
    write_task(tmp_path / "scifact")
    with pytest.raises(RunFormatError, match="--name: the name of the system 'my model' holds a space or"):
        evaluate(system(WordEncoder(), "my model"), ["beir/scifact"], options(tmp_path))


@pytest.mark.parametrize(
    ("missing", "needs"), [("bm25s", "bm25s"), ("Stemmer", "Stemmer is not installed"), ("scipy", "this needs scipy")]
)
def test_a_package_that_scoring_needs_is_missed_before_anything_is_encoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, needs: str
) -> None:
    write_task(tmp_path / "scifact")
    (tmp_path / "pairs.tsv").write_text("sentence1\tsentence2\tscore\na\tb\t1\na\tc\t0\n", encoding="utf-8")
    monkeypatch.setitem(sys.modules, missing, None)
    encoder = WordEncoder()
    names = ["beir/scifact", str(tmp_path / "pairs.tsv")] if missing == "scipy" else ["beir/scifact"]
    mode: SearchMode = "dense" if missing == "scipy" else "hybrid"
    with pytest.raises(MissingDependencyError, match=needs):
        evaluate(system(encoder, mode=mode), names, options(tmp_path))
    assert encoder.read == []
    # Neither is needed to encode.
    encode_tasks(system(encoder, mode=mode), names, tmp_path / "stores", options(tmp_path).settings)
    assert encoder.read == list(PASSAGES)


def test_the_table_averages_tasks_of_one_family_and_metric_only(tmp_path: Path, forums: Callable[[], None]) -> None:
    write_task(tmp_path / "beir" / "scifact")
    own = write_task(tmp_path / "mine")
    names = ["beir/scifact", "beir/two", "beir/cqadupstack/tex", str(own)]
    scores = evaluate(system(WordEncoder()), names, options(tmp_path))
    value = {score.task.name: score.report.metrics["nDCG@10"] for score in scores}
    # A member counts through its average alone, and one folder of one's own is no average.
    expected = (value["beir/scifact"] + value["beir/two"]) / 2
    assert family_averages(scores) == {("beir", "nDCG@10"): (2, pytest.approx(expected))}
    table = task_table(scores)
    assert [row[0] for row in table.rows] == ["Task", *(score.task.name for score in scores), "average of 2 beir tasks"]


def test_texts_that_the_model_cuts_are_counted_with_the_remedy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    long = {**PASSAGES, "d2": f"{'word ' * LIMIT}stone"}
    folder = write_task(tmp_path / "long", long)
    stores = tmp_path / "stores"
    evaluate(system(WordEncoder()), [str(folder)], options(tmp_path, stores=stores))
    expected = (
        "long/test: the model reads only the beginning of 1 of 5 passages (20 %), and the rest of each is not in its "
        "vector; score them by their best window with windows=maxp"
    )
    assert [line for line in caplog.messages if "only the beginning" in line] == [expected]
    caplog.clear()
    # The store is there already, and scores suffer all the same.
    evaluate(system(WordEncoder()), [str(folder)], options(tmp_path, "again", stores=stores))
    assert expected in caplog.messages
    caplog.clear()
    evaluate(system(WordEncoder()), [str(folder)], options(tmp_path, "split", windows="maxp"))
    evaluate(system(WordEncoder()), [str(write_task(tmp_path / "small"))], options(tmp_path, "short"))
    assert not [line for line in caplog.messages if "only the beginning" in line]


def test_a_corpus_with_fields_of_other_names_is_scored_alike(tmp_path: Path) -> None:
    folder, other = write_task(tmp_path / "plain"), write_task(tmp_path / "other")
    for name in ("corpus", "queries"):
        rows = other / f"{name}.jsonl"
        rows.write_text(rows.read_text(encoding="utf-8").replace('"text"', '"body"'), encoding="utf-8")
    [expected] = evaluate(system(WordEncoder()), [str(folder)], options(tmp_path))
    with pytest.raises(DataError, match=r'has no "text".*\(reading\.text_field\)'):
        evaluate(system(WordEncoder()), [str(other)], options(tmp_path, "no"))
    reading = ReadingSettings(text_field="body")
    stores = tmp_path / "stores"
    for encoder in (WordEncoder(), None):
        given = options(tmp_path, "renamed" if encoder else "words", reading=reading, stores=stores)
        [found] = evaluate(system(encoder), [str(other)], given)
        assert found.report.settings["reading"] == {"text_field": "body"}
        if encoder:
            assert found.report.per_query == expected.report.per_query
    known = WordEncoder()
    evaluate(system(known), [str(other)], options(tmp_path, "third", reading=reading, stores=stores))
    assert known.read == []
    assert "reading" not in expected.report.settings
    reading = ReadingSettings(text_field="body", title_field="body")
    with pytest.raises(EvaluationError, match="reading"):
        evaluate(system(known), [str(other)], options(tmp_path, "third", reading=reading))
