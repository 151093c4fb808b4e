"""``llama2vec rerank``, and ``evaluate`` for the run that it writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pair_models import save_cross_encoder
from running import CommandLine

from llama2vec.data.tasks.trec import read_run, write_run
from llama2vec.integrations.pair_scorer import PairScorer
from llama2vec.records import Run


@pytest.fixture(scope="module")
def model(make_tokenizer: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_cross_encoder(make_tokenizer(), tmp_path_factory.mktemp("cross"))


@pytest.fixture
def folder(tmp_path: Path, corpus_rows: list[dict[str, str]]) -> Path:
    """A BEIR folder with three queries."""
    place = tmp_path / "task"
    (place / "qrels").mkdir(parents=True)
    (place / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus_rows), encoding="utf-8")
    rows = [{"_id": f"q{number}", "text": corpus_rows[number]["text"][:40]} for number in range(3)]
    (place / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    lines = "".join(f"q{number}\t{corpus_rows[number]['_id']}\t1\n" for number in range(3))
    (place / "qrels" / "test.tsv").write_text(lines, encoding="utf-8")
    return place


@pytest.fixture
def run(tmp_path: Path, corpus_rows: list[dict[str, str]]) -> Path:
    found = {f"q{query}": {row["_id"]: float(number) for number, row in enumerate(corpus_rows)} for query in range(3)}
    write_run(Run(found, "first"), tmp_path / "first.trec")
    return tmp_path / "first.trec"


def test_a_run_is_reranked_and_scored(
    folder: Path, run: Path, model: Path, corpus_rows: list[dict[str, str]], tmp_path: Path, command_line: CommandLine
) -> None:
    output = tmp_path / "second.trec"
    call = ["rerank", run, "--model", model, "--device", "cpu", "--depth", 5, "-o", output]
    done = command_line(*call, "--task", folder)
    assert done.code == 0, done.err
    assert "Reranked 3 queries to depth 5" in done.out
    assert "(cross-encoder, 15 pairs)" in done.out
    new = read_run(output)
    assert new.tag == "first-reranked"
    text_of = {row["_id"]: row["text"] for row in corpus_rows}
    best = [row["_id"] for row in reversed(corpus_rows[-5:])]
    expected = PairScorer(str(model), "cpu").scores([corpus_rows[1]["text"][:40]], [[text_of[name] for name in best]])[
        0
    ]
    assert [new.results["q1"][name] for name in best] == pytest.approx(expected.tolist(), abs=1e-4)
    before = read_run(run)
    assert [name for name, _ in new.ranking("q1")][5:] == [name for name, _ in before.ranking("q1")][5:]
    assert command_line.refused(*call, "--task", folder)
    scored = command_line("evaluate", output, "--task", folder, "--metric", "R@1000", "-o", tmp_path / "scores")
    assert scored.code == 0, scored.err
    result = json.loads((tmp_path / "scores" / "task-test.json").read_text(encoding="utf-8"))
    assert (result["system"], result["metrics"]["R@1000"]) == ("first-reranked", 1.0)
    assert read_run(tmp_path / "scores" / "task-test.trec").results == new.results
    assert (
        "All tasks were already scored"
        in command_line("evaluate", output, "--task", folder, "--metric", "R@1000", "-o", tmp_path / "scores").out
    )
    other = ["evaluate", run, "--name", "first-reranked", "--task", folder, "--metric", "R@1000"]
    assert "was made with run_sha256" in command_line.refused(*other, "-o", tmp_path / "scores")


def test_ctrl_c_keeps_the_scores_and_the_same_command_resumes(
    folder: Path, run: Path, model: Path, tmp_path: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = ["rerank", run, "--model", model, "--device", "cpu", "--task", folder, "--depth", 5, "-o"]
    assert command_line(*call, tmp_path / "whole.trec").code == 0
    monkeypatch.setattr("llama2vec.score.reranking._PAIRS_AT_ONCE", 1)
    score, batches = PairScorer.scores, list[int]()

    def interrupted(self: PairScorer, *texts: Any) -> Any:
        batches.append(len(texts[0]))
        if len(batches) == 3:
            raise KeyboardInterrupt
        return score(self, *texts)

    monkeypatch.setattr(PairScorer, "scores", interrupted)
    stopped = command_line(*call, tmp_path / "out.trec")
    assert stopped.code == 130
    assert stopped.err.endswith("interrupted; rerun the same command to resume\n")
    done = command_line(*call, tmp_path / "out.trec")
    assert done.code == 0, done.err
    assert batches == [1, 1, 1, 1]
    whole, resumed = (read_run(tmp_path / f"{name}.trec").results for name in ("whole", "out"))
    assert {query: list(scores) for query, scores in resumed.items()} == {
        query: list(scores) for query, scores in whole.items()
    }
    assert list(tmp_path.glob("*.scores-*")) == []


def test_a_kill_after_the_run_is_in_its_place_leaves_scores_that_the_same_command_removes(
    folder: Path, run: Path, model: Path, tmp_path: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.trec"
    call = ["rerank", run, "--model", model, "--device", "cpu", "--task", folder, "--depth", 2, "-o", output]

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as until_the_kill:
        until_the_kill.setattr("llama2vec.kept.discard_kept", killed)
        assert command_line(*call).code == 130
    assert len(list(tmp_path.glob("*.scores-*"))) == 1
    whole = output.read_bytes()
    assert "exists already" in command_line.refused(*call)
    assert list(tmp_path.glob("*.scores-*")) == []
    assert output.read_bytes() == whole


def test_scores_that_are_kept_to_replace_a_run_stay_until_they_have(
    folder: Path, run: Path, model: Path, tmp_path: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out.trec"
    call = ["rerank", run, "--model", model, "--device", "cpu", "--task", folder, "-o", output]
    assert command_line(*call, "--depth", 2).code == 0

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as until_the_kill:
        until_the_kill.setattr("llama2vec.data.tasks.trec.write_run", killed)
        assert command_line(*call, "--depth", 3, "--overwrite").code == 130
    (kept,) = tmp_path.glob("*.scores-*")
    before = kept.read_bytes()
    assert "exists already" in command_line.refused(*call, "--depth", 3)
    assert kept.read_bytes() == before
    monkeypatch.setattr(PairScorer, "scores", killed)  # All are kept
    assert command_line(*call, "--depth", 3, "--overwrite").code == 0
    assert not kept.exists()


def test_queries_and_passages_may_come_from_files_or_an_index(
    folder: Path, run: Path, model: Path, llama_folder: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    call = ["rerank", run, "--model", model, "--device", "cpu", "--depth", 3, "--queries", folder]
    assert command_line(*call, "--corpus", folder / "corpus.jsonl", "-o", tmp_path / "a.trec").code == 0
    cpu = ["--dtype", "float32", "--device", "cpu"]
    assert command_line("encode", llama_folder, folder, "-o", tmp_path / "store", *cpu).code == 0
    done = command_line(*call, "--index", tmp_path / "store", "-o", tmp_path / "b.trec", "--name", "mine")
    assert done.code == 0, done.err
    one, two = read_run(tmp_path / "a.trec"), read_run(tmp_path / "b.trec")
    assert one.results == two.results
    assert two.tag == "mine"


def test_queries_and_passages_of_a_task_may_have_fields_of_other_names(
    folder: Path, run: Path, model: Path, llama_folder: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    call = ["rerank", run, "--model", model, "--device", "cpu", "--depth", 3, "--task", folder]
    assert command_line(*call, "-o", tmp_path / "usual.trec").code == 0
    cpu = ["--dtype", "float32", "--device", "cpu"]
    assert command_line("encode", llama_folder, folder, "-o", tmp_path / "store", *cpu).code == 0
    for name in ("corpus", "queries"):
        rows = folder / f"{name}.jsonl"
        rows.write_text(rows.read_text(encoding="utf-8").replace('"text"', '"body"'), encoding="utf-8")
    named = ["--set", "reading.text_field=body"]
    assert "name its field (reading.text_field)" in command_line.refused(*call, "-o", tmp_path / "none.trec")
    for number, options in enumerate((named, [*named, "--index", tmp_path / "store"])):
        done = command_line(*call, *options, "-o", tmp_path / f"{number}.trec")
        assert done.code == 0, done.err
        assert read_run(tmp_path / f"{number}.trec").results == read_run(tmp_path / "usual.trec").results


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "a run needs texts; give --task, or --queries with --corpus or --index"),
        (["--queries", "q.jsonl"], "a run needs texts"),
        (["--task", "{folder}", "--corpus", "c", "--index", "i"], "give one of them"),
        (["--task", "sts/stsb"], "runs belong to one retrieval task"),
        (["--task", "{folder}", "--model", "{llama}"], "scores no pairs; give a cross-encoder"),
        (["--task", "{folder}", "--name", "two words"], "TREC files need one word: rename it"),
        (["--task", "{folder}", "--corpus", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (
            ["--task", "{folder}", "--index", "i", "--set", "reading.encoding=cp1252"],
            "--set reading.encoding=cp1252: the passages of --index have been read already, and queries",
        ),
        (["--task", "{folder}:dev", "--model", "./nowhere"], "has no split 'dev'"),
        (["--task", "{folder}", "-o", "{folder}/out.trec"], "lies inside the input"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(
    options: list[str], message: str, folder: Path, run: Path, model: Path, llama_folder: Path, tmp_path: Path,
    command_line: CommandLine,
) -> None:  # fmt: skip
    given = [text.format(folder=folder, llama=llama_folder) for text in options]
    call = ["rerank", run, "--model", model, "-o", tmp_path / "out.trec", *given]
    assert message in command_line.refused(*call)
    assert not (tmp_path / "out.trec").exists()


def test_a_run_is_scored_as_it_is(folder: Path, run: Path, tmp_path: Path, command_line: CommandLine) -> None:
    call = ["evaluate", run, "-o", tmp_path / "out"]
    assert "a run is scored as it is" in command_line.refused(*call, "--task", folder, "--mode", "hybrid")
    assert "a run is scored as it is" in command_line.refused(*call, "--task", folder, "--set", "windows=maxp")
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("sentence1\tsentence2\tscore\na\tb\t1\nc\td\t2\n", encoding="utf-8")
    assert "first does not score sentence pairs" in command_line.refused(*call, "--task", pairs)
    assert command_line(*call, "--task", folder, "--metric", "R@3", "--depth", 3).code == 0
    assert all(len(row) == 3 for row in read_run(tmp_path / "out" / "task-test.trec").results.values())


def test_a_named_task_is_looked_for_below_the_data_root_and_a_number_format_is_taken(
    folder: Path, run: Path, model: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    (tmp_path / "data" / "beir").mkdir(parents=True)
    folder.rename(tmp_path / "data" / "beir" / "scifact")
    call = ["rerank", run, "--model", model, "--device", "cpu", "--task", "beir/scifact", "--depth", 5]
    call += ["--data-root", tmp_path / "data"]
    for dtype in ("float32", "bfloat16"):
        done = command_line(*call, "--dtype", dtype, "-o", tmp_path / f"{dtype}.trec")
        assert done.code == 0, done.err
    exact, rounded = (read_run(tmp_path / f"{dtype}.trec").results["q1"] for dtype in ("float32", "bfloat16"))
    assert exact.keys() == rounded.keys()
    assert exact != rounded
    assert "dtype" in command_line.refused(*call, "--dtype", "int3", "-o", tmp_path / "none.trec")


def test_a_corpus_is_read_by_the_fields_that_are_named(
    folder: Path, run: Path, model: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    corpus = folder / "corpus.jsonl"
    call = ["rerank", run, "--model", model, "--device", "cpu", "--task", folder, "--depth", 2]
    assert command_line(*call, "-o", tmp_path / "usual.trec").code == 0
    corpus.write_text(corpus.read_text(encoding="utf-8").replace('"text"', '"body"'), encoding="utf-8")
    assert "name its field (reading.text_field)" in command_line.refused(*call, "-o", tmp_path / "named.trec")
    named = command_line(*call, "--set", "reading.text_field=body", "-o", tmp_path / "named.trec")
    assert named.code == 0, named.err
    assert read_run(tmp_path / "named.trec").results == read_run(tmp_path / "usual.trec").results
    assert "takes reading.KEY alone" in command_line.refused(*call, "--set", "depth=3", "-o", tmp_path / "no.trec")
    assert "drop it" in command_line.refused(*call, "--set", "passages.tokens=9", "-o", tmp_path / "no.trec")
