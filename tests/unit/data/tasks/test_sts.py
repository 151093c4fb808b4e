import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from llama2vec.data.tasks.sts import read_sentence_pairs
from llama2vec.errors import CorpusFormatError, EmptyCorpusError, EvaluationError
from llama2vec.records import SentencePair


def test_a_tsv_has_no_quoting(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text('sentence1\tsentence2\tscore\n"A llama\tHe said "no"\t4.75\na\tb\t0\n', encoding="utf-8")
    assert read_sentence_pairs(path)[0] == SentencePair('"A llama', 'He said "no"', 4.75)


def test_the_columns_may_come_in_any_order(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("score\tsentence1\tsplit\tsentence2\n\n5\tone, two\tdev\ta b\n4\tc\tdev\td\n", encoding="utf-8")
    assert read_sentence_pairs(str(path)) == [SentencePair("one, two", "a b", 5.0), SentencePair("c", "d", 4.0)]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.tsv", "a\tb\t1\n", r"a\.tsv:1 has the header a, b, 1, without sentence1 and sentence2 and score"),
        ("a.tsv", "sentence1\tsentence2\tscore\nx\ty\t1\n\nx\ty\n", r"a\.tsv:4 has 2 columns where the header has 3"),
        ("a.tsv", "sentence1\tsentence2\tscore\nx\ty\tgood\n", r"a\.tsv:2 has the score 'good'"),
        ("a.tsv", "sentence1\tsentence2\tscore\nx\ty\tnan\n", r"a\.tsv:2 has the score 'nan'"),
        ("a.csv", "[]", "unknown kind of sentence-pair file"),
    ],
)
def test_a_faulty_pair_file_is_reported_with_its_line(tmp_path: Path, name: str, content: str, problem: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(CorpusFormatError, match=problem):
        read_sentence_pairs(tmp_path / name)


@pytest.mark.parametrize("content", ["", "sentence1\tsentence2\tscore\n"])
def test_a_file_without_pairs_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "a.tsv"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(EmptyCorpusError):
        read_sentence_pairs(path)


def test_a_missing_pair_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CorpusFormatError, match="cannot be read"):
        read_sentence_pairs(tmp_path / "a.tsv")


def test_a_hub_dataset_is_read_like_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"sentence1": "a", "sentence2": "b", "score": 1, "idx": 7},
        {"sentence1": "c", "sentence2": "d", "score": 0.5},
    ]
    sets = {"good": rows, "empty": [], "other": [{"text": "a"}], "bad": [{**rows[0], "score": None}]}
    sets["null"] = [rows[0], {**rows[1], "sentence2": None}]
    module: Any = ModuleType("datasets")
    module.get_dataset_config_names = lambda name: ["default"]
    module.load_dataset = lambda name, config, split, streaming: {"test": sets[name]} if split is None else sets[name]
    monkeypatch.setitem(sys.modules, "datasets", module)
    assert read_sentence_pairs("hf:good") == [SentencePair("a", "b", 1.0), SentencePair("c", "d", 0.5)]
    assert read_sentence_pairs("hf:good:validation") == read_sentence_pairs("hf:good")
    with pytest.raises(EmptyCorpusError, match="hf:empty has no pairs"):
        read_sentence_pairs("hf:empty")
    with pytest.raises(
        CorpusFormatError, match="hf:other, row 0, has the columns text, without sentence1 and sentence2"
    ):
        read_sentence_pairs("hf:other")
    with pytest.raises(CorpusFormatError, match="hf:bad, row 0, has the score 'None'"):
        read_sentence_pairs("hf:bad")
    with pytest.raises(
        CorpusFormatError, match=r"hf:null, row 1, has no text in sentence2 \(None\); correct or remove"
    ):
        read_sentence_pairs("hf:null")


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ("a\tb\t1\n", r"a\.tsv has a single pair"),
        ("a\tb\t3\nc\td\t3.0\n", r"a\.tsv: all 2 pairs have the score 3, so no correlation is defined"),
    ],
)
def test_scores_that_nothing_could_correlate_with_are_refused(tmp_path: Path, rows: str, problem: str) -> None:
    (tmp_path / "a.tsv").write_text(f"sentence1\tsentence2\tscore\n{rows}", encoding="utf-8")
    with pytest.raises(EvaluationError, match=problem):
        read_sentence_pairs(tmp_path / "a.tsv")
