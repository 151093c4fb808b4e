"""The held-out search task of fine-tuning."""

from __future__ import annotations

import json
import logging
import random
from pathlib import Path

import pytest

from llama2vec.data.settings import ReadingSettings
from llama2vec.errors import CorpusFormatError, EvaluationError
from llama2vec.finetune.settings import ValidationSettings
from llama2vec.finetune.validation import examples_task, held_out_queries, hold_out, read_validation
from llama2vec.records import TrainingExample


def test_rows_with_the_same_positive_are_held_out_together() -> None:
    rows = [TrainingExample(f"q{row}", (f"p{row % 10}",)) for row in range(50)]
    kept, held_out = hold_out(rows, 0.2, 100, seed=0)
    assert sorted([*kept, *held_out]) == list(range(50))
    assert len(held_out) == 10
    assert not {row % 10 for row in kept} & {row % 10 for row in held_out}
    assert hold_out(rows, 0.2, 100, seed=0) == (kept, held_out)
    assert hold_out(rows, 0.2, 100, seed=1) != (kept, held_out)
    assert hold_out(rows, 0.0, 100, seed=0) == (list(range(50)), [])
    assert len(hold_out(rows, 0.5, 7, seed=0)[1]) == 5


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (TrainingExample("who", ("she",)), TrainingExample(" who ", ("her",))),
        (TrainingExample("Who  is caf\u00e9", ("she",)), TrainingExample("who is cafe\u0301", ("her",))),
        (TrainingExample("who", ("she",), query_id="q1"), TrainingExample("who is it", ("her",), query_id="q1")),
        (TrainingExample("who", ("he", "she")), TrainingExample("which", ("they", "She"))),
        # Two pairs of one passage of a corpus, cropped otherwise.
        (
            TrainingExample("crop", ("passage",), positive_ids=("p",)),
            TrainingExample("passage", ("crop",), positive_ids=("p",)),
        ),
    ],
    ids=["query", "query in another case and Unicode form", "query id", "second positive", "passage id"],
)
def test_rows_that_share_a_query_or_a_positive_are_held_out_together(
    first: TrainingExample, second: TrainingExample
) -> None:
    rows = [*(TrainingExample(f"q{row}", (f"p{row}",)) for row in range(20)), first, second]
    parts = [hold_out(rows, 0.3, 100, seed) for seed in range(20)]
    assert {(20 in held_out, 21 in held_out) for _, held_out in parts} == {(True, True), (False, False)}
    if first.positive_ids or first.query_id:
        split = [hold_out(rows, 0.3, 100, seed, [*([0] * 21), 1])[1] for seed in range(20)]
        assert any((20 in held_out) != (21 in held_out) for held_out in split)  # An id counts within its source


def test_rows_that_are_gone_or_new_or_moved_leave_nearly_the_same_queries_held_out() -> None:
    rows = [TrainingExample(f"q{row}", (f"p{row // 2}",)) for row in range(1000)]
    others = [*(TrainingExample(f"r{row}", (f"s{row}",)) for row in range(3)), *rows[7:990]]
    random.Random(0).shuffle(others)
    before, after = ({found[row].query for row in hold_out(found, 0.05, 100, 0)[1]} for found in (rows, others))
    assert len(before) == 50
    assert len(before & after) >= 46


def linked_at_random(draw: random.Random) -> list[tuple[TrainingExample, int]]:
    """Rows with few queries and positives, some by id, from two sources."""
    rows = []
    for _ in range(60):
        query, passage = draw.randrange(70), draw.randrange(80)
        ids = {"query_id": f"q{draw.randrange(90)}", "positive_ids": (f"p{passage}",)} if draw.random() < 0.3 else {}
        rows.append((TrainingExample(f"query {query}", (f"answer {passage}",), **ids), draw.randrange(2)))
    return rows


@pytest.mark.parametrize("seed", range(20))
def test_trainings_on_parts_of_the_rows_never_train_on_what_another_holds_out(seed: int) -> None:
    draw = random.Random(seed)
    rows = linked_at_random(draw)
    queries = held_out_queries(rows, 0.2, 20, seed)
    trained, held = set[str](), set[str]()
    for _ in range(4):
        part = draw.sample(rows, 40)  # Each round drops other rows, and the links that these make
        examples, sources = [one for one, _ in part], [source for _, source in part]
        kept, out = hold_out(examples, 0.2, 20, seed, sources, queries)
        assert sorted([*kept, *out]) == list(range(40))
        for found, at in ((trained, kept), (held, out)):
            found.update(*((examples[row].query, *examples[row].positives) for row in at))
    assert queries
    assert held
    assert trained.isdisjoint(held)


def test_every_known_answer_of_a_held_out_query_is_relevant_and_none_is_drawn_as_another_passage() -> None:
    held_out = [
        TrainingExample("who", ("she",), ("it",)),
        TrainingExample("Who", ("her",)),
        TrainingExample("who", ("him",)),
        TrainingExample("crop", ("passage",), positive_ids=("p",)),
        TrainingExample("passage", ("crop",), positive_ids=("p",)),
    ]
    others = [TrainingExample("WHO", ("them",)), TrainingExample("which", ("all", "HER")), TrainingExample("x", ("y",))]
    task = examples_task(held_out, others, ValidationSettings(), seed=0)
    assert task.passages == ["she", "it", "her", "him", "passage", "crop", "y"]
    persons, both = {"0": 1, "2": 1, "3": 1}, {"4": 1, "5": 1}
    assert task.qrels == {"0": persons, "1": persons, "2": persons, "3": both, "4": both}


@pytest.fixture
def beir(corpus_rows: list[dict[str, str]], tmp_path: Path) -> Path:
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus_rows), encoding="utf-8")
    (folder / "queries.jsonl").write_text('{"_id": "1", "text": "river"}\n', encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\tdoc2-001\t1\n", encoding="utf-8")
    return folder


def test_a_beir_folder_serves_as_validation(beir: Path, corpus_rows: list[dict[str, str]]) -> None:
    settings = ValidationSettings(source=str(beir), split="test", extra_passages=5)
    task = read_validation(settings, [], seed=0)
    assert task.queries == ["river"]
    (gains,) = task.qrels.values()
    assert {task.passages[int(number)]: gain for number, gain in gains.items()} == {corpus_rows[9]["text"]: 1}
    assert len(task.passages) == 1 + 5
    assert set(task.passages) <= {row["text"] for row in corpus_rows}
    assert read_validation(settings, [], seed=0) == task
    assert read_validation(settings, [], seed=1) != task


def test_the_test_split_validates_only_where_it_is_named(beir: Path) -> None:
    with pytest.raises(CorpusFormatError, match="has no split 'dev'; choose from test"):
        read_validation(ValidationSettings(source=str(beir)), [], seed=0)


def test_a_beir_folder_whose_judged_passages_are_missing_is_refused(beir: Path) -> None:
    (beir / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\tgone\t1\n", encoding="utf-8")
    with pytest.raises(EvaluationError, match="corpus"):
        read_validation(ValidationSettings(source=str(beir), split="test"), [], seed=0)


def test_queries_whose_judged_passages_are_missing_are_left_out_and_counted(
    beir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (beir / "queries.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"_id": "2", "text": "bridge"}\n')
    with (beir / "qrels" / "test.tsv").open("a", encoding="utf-8") as file:
        file.write("1\tlost\t1\n2\tgone\t1\n")
    task = read_validation(ValidationSettings(source=str(beir), split="test"), [], seed=0)
    assert (task.queries, list(task.qrels)) == (["river"], ["0"])
    assert "the corpus lacks 2 judged passages; 1 query without any left out" in caplog.text


def test_the_queries_that_the_validation_asks_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    held_out = [TrainingExample(str(number), ("one",)) for number in range(5)]
    with caplog.at_level(logging.INFO):
        examples_task(held_out, [], ValidationSettings(max_queries=3), seed=0)
    assert "the validation asks 3 of 5 held-out queries (validation.max_queries)" in caplog.text


def test_a_task_of_examples_holds_their_positives_negatives_and_some_passages_of_others() -> None:
    held_out = [TrainingExample("a", ("one", "two"), ("three",)), TrainingExample("b", ("one",))]
    others = [TrainingExample("c", (f"other {number}",)) for number in range(9)]
    task = examples_task(held_out, others, ValidationSettings(extra_passages=4), seed=0)
    assert task.passages[:3] == ["one", "two", "three"]
    assert len(task.passages) == 3 + 4
    assert task.qrels == {"0": {"0": 1, "1": 1}, "1": {"0": 1}}


def test_the_fields_of_a_beir_folder_that_validates_are_those_that_are_named(beir: Path) -> None:
    settings = ValidationSettings(source=str(beir), split="test", extra_passages=5)
    usual = read_validation(settings, [], seed=0)
    corpus = beir / "corpus.jsonl"
    corpus.write_text(corpus.read_text(encoding="utf-8").replace('"text"', '"body"'), encoding="utf-8")
    with pytest.raises(CorpusFormatError, match=r"reading\.text_field"):
        read_validation(settings, [], 0, ReadingSettings())
    assert read_validation(settings, [], 0, ReadingSettings(text_field="body")) == usual
