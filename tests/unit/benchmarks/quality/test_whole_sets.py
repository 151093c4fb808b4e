"""Whole sets are scored in parts as they would be at once; vectors are made once, and again where the data changed."""

from __future__ import annotations

import argparse
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.study.sets import SampledSet
from llama2vec.data.corpus.passages import read_passages
from llama2vec.data.tasks.beir import read_beir
from llama2vec.data.tasks.sts import read_sentence_pairs


class Letters:
    """An embedding in which each letter is a dimension; ``made`` counts its texts, call by call."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def __call__(self, texts: list[str], _: bool) -> np.ndarray:
        self.made.append(len(texts))
        rows = np.array([[text.count(letter) + 0.01 for letter in "aeiourstln"] for text in texts])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def made_systems(letters: Letters, work: Path) -> dict[str, Any]:
    from benchmarks.quality import whole_sets

    return {name: whole_sets.System(letters, work / name) for name in (whole_sets.OURS, whole_sets.PEER)}


@pytest.fixture
def data(toy_data: Path, tmp_path: Path) -> Path:
    """A copy of the toy set under the name of one that is averaged, and STS-B's two files."""
    shutil.copytree(toy_data / "one", tmp_path / "data" / "cranfield")
    (tmp_path / "data" / "stsb").mkdir()
    for name in ("en-dev", "en-test"):
        shutil.copy(toy_data / "pairs.tsv", tmp_path / "data" / "stsb" / f"{name}.tsv")
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def _few_flips(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.quality import whole_sets

    monkeypatch.setattr(whole_sets, "_OPTIONS", replace(whole_sets._OPTIONS, flips=100))


def scored(data: Path, work: Path, output: Path) -> tuple[dict[str, Any], Letters]:
    """Score as the command does, with letters for the models; return the results, and what was embedded."""
    from benchmarks.quality import whole_sets

    letters = Letters()
    results = whole_sets.read_own(output, {}, "") or {"contract_hash": "c", "sets": {}, "sts": {}}
    arguments = argparse.Namespace(data=data, output=output)
    tasks = {"cranfield": read_beir(data / "cranfield")}
    pairs = {name: read_sentence_pairs(data / "stsb" / f"{name}.tsv") for name in ("en-dev", "en-test")}
    whole_sets.score(arguments, results, tasks, pairs, made_systems(letters, work))
    return json.loads(output.read_text(encoding="utf-8")), letters


def without_digests(work: Path, output: Path) -> None:
    """Leave what was there before digests were kept."""
    for file in work.rglob("*.digest.json"):
        file.unlink()
    results = json.loads(output.read_text(encoding="utf-8"))
    del results["data"]
    output.write_text(json.dumps(results), encoding="utf-8")


def reverse(file: Path) -> None:
    """Give the rows of a JSONL file each other's texts; their ids and number stay."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    texts = [row["text"] for row in reversed(rows)]
    lines = [json.dumps({**row, "text": text}) + "\n" for row, text in zip(rows, texts, strict=True)]
    file.write_text("".join(lines), encoding="utf-8")


def test_a_set_scored_in_parts_has_the_scores_of_one_search(
    toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.quality import whole_sets

    letters = Letters()
    systems = made_systems(letters, tmp_path)
    task = read_beir(toy_data / "one")
    whole = SampledSet(task, list(read_passages(task.corpus_source)))
    once = whole_sets.score_set("one", whole, systems)
    encoded = sum(letters.made)
    monkeypatch.setattr(whole_sets, "_QUERIES_AT_ONCE", 3)
    parts = whole_sets.score_set("one", whole, systems)
    assert parts == once
    assert sum(letters.made) == encoded, "the second call must read the vectors that are kept"
    scores, per_query = once
    assert scores["queries"] == 10
    assert scores["rows"][whole_sets.OURS] == scores["rows"][whole_sets.PEER]
    found = whole_sets._comparison("one", per_query)
    pair = next(one for one in found.pairs if {one.first, one.second} == {whole_sets.OURS, whole_sets.PEER})
    assert (pair.difference, pair.randomization_p) == (0, 1)


def test_the_tables_name_what_was_averaged_and_leave_out_what_is_missing() -> None:
    from benchmarks.quality import whole_sets_tables as tables

    def row(score: float) -> dict[str, object]:
        return {tables.MEASURE: score, "interval": [score - 0.1, score + 0.1]}

    results = {
        "sets": {"cranfield": {"rows": {name: row(0.5) for name in tables.ROWS}}},
        "sts": {"en-test": {tables.OURS: {"spearman": 0.8, "interval": [0.7, 0.9]}}},
        "averaged": ["cranfield"],
        "average": dict.fromkeys(tables.ROWS, 0.5),
        "comparisons": [{"first": "a", "second": "b", "difference": 0.02, "interval": [-0.01, 0.05], "p": 0.2}],
    }
    head, _, cranfield, average, dev, test = tables.scores(results).split("\n")
    assert head == f"|  | {' | '.join(tables.ROWS)} |"
    assert cranfield.startswith("| cranfield | 0.500<br>[0.400, 0.600] |")
    assert average.startswith("| average of 1 | **0.500** |")
    assert dev == "| STS-B dev | – | – | – | – | – |"
    assert test == "| STS-B test | 0.800<br>[0.700, 0.900] | – | – | – | – |"
    assert "| a | b | +0.020 [-0.010, +0.050] | 0.2000 |" in tables.tests(results)


def test_vectors_of_other_texts_are_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from benchmarks.quality import whole_sets

    letters = Letters()
    system = whole_sets.System(letters, tmp_path)
    texts = ["a llama", "a river", "an orange"]
    first = system.vectors("one", "passages", texts)
    assert (system.vectors("one", "passages", texts) == first).all()
    assert letters.made == [3]
    with caplog.at_level(logging.INFO):
        other = system.vectors("one", "passages", texts[::-1])
        longer = system.vectors("one", "passages", [*texts, "a stone"])
    assert letters.made == [3, 3, 4]
    assert (other == first[::-1]).all()
    assert len(longer) == 4
    assert caplog.text.count("one-passages.npy does not belong to these data; it is made again") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one-passages.digest.json", "one-passages.npy"]


def test_vectors_from_before_digests_are_used_only_if_their_rows_fit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from benchmarks.quality import whole_sets

    letters = Letters()
    system = whole_sets.System(letters, tmp_path)
    texts = ["a llama", "a river", "an orange"]
    first = system.vectors("one", "queries", texts)
    note = tmp_path / "one-queries.digest.json"
    note.unlink()
    with caplog.at_level(logging.INFO):
        assert (system.vectors("one", "queries", texts) == first).all()
        assert (system.vectors("one", "queries", texts) == first).all()
    assert caplog.text.count("was made before digests were kept") == 1, "its digest is written the first time"
    assert letters.made == [3]
    note.unlink()
    assert len(system.vectors("one", "queries", texts[:2])) == 2
    for content in (b"", b"no table"):
        note.unlink()
        (tmp_path / "one-queries.npy").write_bytes(content)
        assert len(system.vectors("one", "queries", texts)) == 3
    assert letters.made == [3, 2, 3, 3]


def test_interrupted_work_is_resumed_unless_its_texts_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.quality import whole_sets

    monkeypatch.setattr(whole_sets, "_TEXTS_AT_ONCE", 2)
    letters = Letters()
    system = whole_sets.System(letters, tmp_path)
    texts = ["a llama", "a river", "an orange", "a stone", "winter"]
    for start in (0, 2):
        system._part(tmp_path / "one-passages.npy", texts, start, False)
    (tmp_path / "one-passages-000000002.digest.json").unlink()
    found = system.vectors("one", "passages", ["other", *texts[1:]])
    assert letters.made == [2, 2, 2, 1], "the first part is made again, the second one is kept"
    assert np.allclose(found, letters(["other", *texts[1:]], False), atol=1e-3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one-passages.digest.json", "one-passages.npy"]


@pytest.mark.parametrize("part", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
def test_a_set_whose_data_changed_is_scored_again(part: str, data: Path, tmp_path: Path) -> None:
    work, output = tmp_path / "work", tmp_path / "scores.json"
    first, _ = scored(data, work, output)
    again, letters = scored(data, work, output)
    assert again["sets"] == first["sets"]
    assert again["comparisons"] == first["comparisons"]
    assert not letters.made
    file = data / "cranfield" / part
    if part.endswith(".tsv"):
        file.write_text(file.read_text(encoding="utf-8").replace("\td0\t", "\td3\t"), encoding="utf-8")
    else:
        reverse(file)
    changed, letters = scored(data, work, output)
    fresh, _ = scored(data, tmp_path / "new", tmp_path / "new.json")
    assert changed["sets"] == fresh["sets"] != first["sets"]
    assert changed["average"] == fresh["average"]
    assert bool(letters.made) == part.endswith(".jsonl")


def test_scores_from_before_digests_stay_and_get_theirs(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    work, output = tmp_path / "work", tmp_path / "scores.json"
    first, _ = scored(data, work, output)
    without_digests(work, output)
    with caplog.at_level(logging.INFO):
        again, letters = scored(data, work, output)
    assert not letters.made
    assert (again["sets"], again["sts"], again["data"]) == (first["sets"], first["sts"], first["data"])
    assert "cranfield: scored before digests were kept" in caplog.text
    assert "cranfield-per-query.json was made before digests were kept" in caplog.text
    reverse(data / "cranfield" / "corpus.jsonl")
    changed, _ = scored(data, work, output)
    assert changed["sets"] != first["sets"]


def test_scores_from_before_digests_of_a_set_of_another_size_are_not_kept(data: Path, tmp_path: Path) -> None:
    work, output = tmp_path / "work", tmp_path / "scores.json"
    scored(data, work, output)
    without_digests(work, output)
    with (data / "cranfield" / "corpus.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"_id": "new", "title": "", "text": "one more passage"}) + "\n")
    pairs = data / "stsb" / "en-dev.tsv"
    pairs.write_text(pairs.read_text(encoding="utf-8") + "a\tb\t1\n", encoding="utf-8")
    again, _ = scored(data, work, output)
    assert again["sets"]["cranfield"]["passages"] == 21
    assert again["sts"]["en-dev"][next(iter(again["sts"]["en-dev"]))]["pairs"] == 21


@pytest.mark.parametrize("content", ["{", "[1]", '{"a": 1}', '{"contract_hash": "c", "sets": 1, "sts": {}}'])
def test_an_output_that_holds_no_scores_stays_and_is_told_in_one_line(
    content: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "mine.json"
    output.write_text(content, encoding="utf-8")
    told = refused(capsys, "--data", data, "--output", output, "--sets", "cranfield")
    assert f"{output} does not hold scores of this script" in told
    assert output.read_text(encoding="utf-8") == content


def test_wrong_data_and_a_missing_output_are_told_in_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new.json"
    nowhere = tmp_path / "nowhere"
    assert "no such folder" in refused(capsys, "--data", nowhere, "--output", output)
    assert "no such folder" in refused(capsys, "--data", nowhere, "--only-encode")
    assert "--output is missing" in refused(capsys, "--data", data, "--sets", "cranfield")
    assert "does not hold" in refused(capsys, "--data", data, "--sets", "cranfield", "--output", tmp_path)
    (data / "stsb" / "en-test.tsv").unlink()
    told = refused(capsys, "--data", data, "--sets", "cranfield", "--output", output)
    assert "en-test.tsv cannot be read" in told
    assert not output.exists()


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Return the one line in which the command refuses; no model is loaded before it."""
    from benchmarks.quality import whole_sets

    given = [*map(str, arguments), "--model", "/no/such/model", "--work", "/no/such/work"]
    with pytest.raises(SystemExit) as ended:
        whole_sets.main(given)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    return told
