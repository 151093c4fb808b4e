"""The corpora of tasks: passages that are their queries, and tasks of one family on different corpora."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from word_encoder import WordEncoder, evaluate, options, system, write_task

from llama2vec.score.corpora import tasks_data
from llama2vec.score.tasks import find_task, passed_over


def citations(folder: Path) -> Path:
    """Write papers of which the query is the title of the one with its id."""
    write_task(folder, {"p0": "river", "p1": "stone river", "p2": "market"}, {"p0": "river bridge"}, {"p0": {"p1": 1}})
    rows = [{"_id": "p0", "title": "river bridge", "text": "winter"}, {"_id": "p1", "title": "", "text": "river"}]
    rows.append({"_id": "p2", "title": "", "text": "market"})
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def test_the_title_of_the_passage_with_its_id_is_the_query(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    [score] = evaluate(system(WordEncoder()), [str(citations(tmp_path / "cite"))], options(tmp_path))
    assert "the passage of the same id is excluded for 1 query" in caplog.text
    assert score.report.metrics["MRR@10"] == 1.0


def test_neither_a_missing_title_nor_another_id_is_a_query(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_task(tmp_path / "mine", {"1": "river", "2": "stone"}, {"1": "stone"}, {"1": {"2": 1}})
    evaluate(system(WordEncoder()), [str(folder)], options(tmp_path))
    assert "same id" not in caplog.text


def test_on_a_beir_set_a_line_says_how_many_queries_find_the_passage_of_their_id(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    citations(tmp_path / "beir" / "scidocs")
    [kept] = evaluate(system(name="bm25"), ["beir/scidocs"], options(tmp_path))
    line = "beir/scidocs: run 'bm25' returns the passage of the query's own id for 1 query; it counts here"
    assert line in caplog.text
    caplog.clear()
    given = options(tmp_path, "other", exclude_same_id=True)
    [left_out] = evaluate(system(name="bm25"), ["beir/scidocs"], given)
    assert "own id" not in caplog.text
    assert (kept.report.metrics["MRR@10"], left_out.report.metrics["MRR@10"]) == (0.5, 1.0)


def test_a_task_read_past_the_folder_of_its_family_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    titled = write_task(tmp_path / "msmarco", split="dev")
    task = find_task("trec-dl/2019")
    assert passed_over(task, tmp_path) == str(titled)
    assert passed_over(find_task("msmarco/passage/dev"), tmp_path) == ""
    # The same where the other corpus is a local one.
    write_task(tmp_path / "msmarco" / "passage", split="dl19")
    assert passed_over(task, tmp_path) == ""
    (tmp_path / "msmarco" / "passage" / "qrels" / "dl20.tsv").write_text("q1\td1\t1\n", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        list(tasks_data(["msmarco/passage/dev", "trec-dl/2020"], tmp_path, check=True))
    told = [message for message in caplog.messages if "qrels" in message]
    assert len(told) == 1
    assert told[0].startswith(f"msmarco/passage/dev: read from {titled}, because {titled / 'passage'} has no qrels/dev")
    caplog.clear()
    evaluate(system(WordEncoder()), ["msmarco/passage/dev"], options(tmp_path))
    assert f"because {titled / 'passage'} has no qrels/dev.tsv" in caplog.text
