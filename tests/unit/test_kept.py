"""What an unfinished output keeps beside itself: where it lies, how a call resumes from it, and how it goes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from llama2vec.artifact import Kind
from llama2vec.kept import (
    KEPT_QUESTIONS,
    KEPT_SCORES,
    KEPT_STORE,
    KeptScores,
    discard_kept,
    discard_left,
    keep,
    kept_path,
    note_replaced,
    read_kept,
)


@pytest.mark.parametrize("end", [b'[3, "cut by a k', b"\0" * 9 + b"\n", b'\0\0\n[4, "after lost lines"]\n'])
def test_a_kept_file_is_read_up_to_the_line_that_a_kill_or_a_power_cut_left(tmp_path: Path, end: bytes) -> None:
    path = tmp_path / "new" / "out.jsonl.questions-1"
    assert read_kept(path) == []
    assert not path.parent.exists()
    keep(path, [[1, "one"], [2, "zwölf"]])
    whole = path.read_bytes()
    path.write_bytes(whole + end)
    assert read_kept(path) == [[1, "one"], [2, "zwölf"]]
    assert path.read_bytes() == whole
    assert read_kept(path, lambda entries: len(entries) - 1) == [[1, "one"]]
    keep(path, [[3, "three"]])
    assert read_kept(path) == [[1, "one"], [3, "three"]]


def test_only_what_an_output_has_kept_under_a_mark_is_discarded(tmp_path: Path) -> None:
    output, kind = tmp_path / "[1].jsonl", Kind("a store", lambda folder: None, entries=("shard",))
    questions, store = kept_path(output, KEPT_QUESTIONS, 1), kept_path(output, KEPT_STORE, 1)
    others = [kept_path(tmp_path / "1.jsonl", KEPT_QUESTIONS, 1), store / "notes.txt"]
    store.mkdir()
    for path in (questions, store / "shard", *others):
        path.touch()
    discard_kept(output, KEPT_QUESTIONS, but=questions)
    assert questions.exists()
    discard_kept(output, KEPT_QUESTIONS)
    discard_kept(output, KEPT_STORE, kind)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == sorted(others)


@pytest.mark.parametrize("kind", [None, Kind("scores", lambda path: None)])
def test_an_output_is_whole_even_if_what_it_kept_cannot_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind | None
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    kept_path(tmp_path / "out", KEPT_SCORES, 1).touch()
    monkeypatch.setattr(Path, "unlink", refuse)
    discard_kept(tmp_path / "out", KEPT_SCORES, kind)
    assert len(list(tmp_path.iterdir())) == 1


class LengthScorer:
    """Scores a passage by its length, remembers what it read, and stops after some batches."""

    def __init__(self, batches: int = 99) -> None:
        self.read: list[tuple[str, ...]] = []
        self.left = batches

    def scores(self, queries: Sequence[str], passages: Sequence[Sequence[str]]) -> list[list[float]]:
        if len(self.read) == self.left:
            raise KeyboardInterrupt
        self.read.append(tuple(queries))
        return [[float(len(text)) for text in texts] for texts in passages]


def test_scores_that_were_kept_are_not_asked_again(tmp_path: Path) -> None:
    output = tmp_path / "new" / "out.trec"
    path = kept_path(output, KEPT_SCORES, "scorer")
    batches: list[tuple[list[str], list[list[str]]]] = [(["one"], [["a", "bb"]]), (["two"], [["ccc"]])]
    kept = KeptScores(LengthScorer(1), path)
    assert kept.scores(*batches[0]) == [[1.0, 2.0]]
    with pytest.raises(KeyboardInterrupt):
        kept.scores(*batches[1])
    with path.open("a", encoding="utf-8") as stream:
        stream.write('5\n["cut by a kill", [[1')
    for asked in ([("two",)], []):
        scorer = LengthScorer()
        kept = KeptScores(scorer, path)
        assert [kept.scores(*batch) for batch in batches] == [[[1.0, 2.0]], [[3.0]]]
        assert scorer.read == asked
    assert kept.scores(["one"], [["a", "changed"]]) == [[1.0, 7.0]]
    assert kept_path(output, KEPT_SCORES, "another") != path
    discard_kept(output, KEPT_SCORES)
    assert list(output.parent.iterdir()) == []


def test_what_is_left_beside_a_whole_output_is_discarded_but_not_what_will_replace_it(tmp_path: Path) -> None:
    output = tmp_path / "[1].trec"
    first, second = kept_path(output, KEPT_SCORES, 1), kept_path(output, KEPT_SCORES, 2)
    keep(first, [["a", [[0.5]]]])
    note_replaced(first, output)  # There is none yet
    discard_left(output, KEPT_SCORES)
    assert first.exists()
    output.write_text("whole", encoding="utf-8")
    note_replaced(second, output)
    discard_left(output, KEPT_SCORES)
    assert not first.exists()
    assert second.exists()
    assert KeptScores(LengthScorer(), second).scores(["q"], [["p"]]) == [[1.0]]
    output.write_text("replaced", encoding="utf-8")
    discard_left(output, KEPT_SCORES)
    assert not second.exists()
