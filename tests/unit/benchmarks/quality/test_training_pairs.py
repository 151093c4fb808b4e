"""Training pairs are kept apart from test collections, what is left out is counted, and no input is replaced."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llama2vec.records import TrainingExample

HELD = "the boundary layer of a slender wing separates from its leading edge at a high angle of attack"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Every test collection holds one passage and one query; STS-B two pairs a split."""
    from benchmarks.quality.training_pairs import SETS

    root = tmp_path / "data"
    for name in (*SETS, "medquad"):
        folder = root / name
        (folder / "qrels").mkdir(parents=True)
        text = HELD if name == "cranfield" else f"{name} has a passage of its own words"
        (folder / "corpus.jsonl").write_text(json.dumps({"_id": "d", "title": "", "text": text}) + "\n")
        (folder / "queries.jsonl").write_text(json.dumps({"_id": "q", "text": f"What does {name} ask?"}) + "\n")
        for split in ("dev", "test"):
            (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    (root / "stsb").mkdir()
    for split in ("dev", "test"):
        pairs = f"A man plays a {split}.\tSomebody plays.\t4.0\nA dog runs.\tA cat sleeps.\t0.5\n"
        (root / "stsb" / f"en-{split}.tsv").write_text(f"sentence1\tsentence2\tscore\n{pairs}")
    return root


def test_pairs_of_test_collections_are_dropped_and_counted(data: Path) -> None:
    from benchmarks.quality.training_pairs import Tests, clean

    good = {"query": "why do wings stall", "pos": ["air leaves the surface of the wing"], "neg": []}
    rows: list[dict[str, Any]] = [
        good,
        good,
        {"query": "a wing", "pos": [f"As reported, {HELD}, and so on."], "neg": []},
        {"query": "What does cacm ask?", "pos": ["a passage that no test holds"], "neg": []},
        {"query": "music", "pos": ["A man plays a test"], "neg": []},
        {"query": "the same words", "pos": ["The same words."], "neg": []},
        {"query": "lift", "pos": ["lift holds an aircraft up"], "neg": [HELD, "drag slows it down", "lift"]},
    ]
    dropped: Counter[str] = Counter()
    examples = [TrainingExample(row["query"], tuple(row["pos"]), tuple(row["neg"])) for row in rows]
    kept = list(clean(examples, Tests(data), dropped, 4))
    assert [row["query"] for row in kept] == ["why do wings stall", "lift"]
    assert kept[1]["neg"] == ["drag slows it down"]
    assert dict(+dropped) == {
        "duplicate": 1,
        "in a test collection": 3,
        "too short, or the query itself": 1,
        "negatives in a test collection": 1,
        "negatives without words, or the query or its positive": 1,
    }


def test_every_run_of_twelve_words_and_a_short_passage_as_a_whole_are_held(data: Path) -> None:
    from benchmarks.quality.training_pairs import Tests

    tests, words = Tests(data), HELD.split()
    for first in range(len(words) - 11):
        part = " ".join(words[first : first + 12])
        for before in ("", "then ", "and then "):
            assert tests.hold(before + part)
        assert not tests.hold(part.rsplit(" ", 1)[0])
    assert tests.hold("CACM has a passage of its own words.")
    assert not tests.hold("CACM has a passage of its own words, and more")


GOOD = {"query": "why do wings stall", "pos": ["air leaves the surface of the wing"], "neg": ["drag slows it down"]}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def run(data: Path, output: Path, *arguments: object) -> None:
    from benchmarks.quality.training_pairs import main

    main([*map(str, arguments), "--data", str(data), "--output", str(output)])


def refused(capsys: pytest.CaptureFixture[str], data: Path, output: Path, *arguments: object) -> str:
    with pytest.raises(SystemExit) as ended:
        run(data, output, *arguments)
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    return told


def one_line(told: str) -> str:
    assert told.count("\n") == 1
    return told


def test_everything_that_is_left_out_or_cut_is_counted(data: Path, tmp_path: Path) -> None:
    long = " ".join(f"word{number}" for number in range(401))
    rows = [
        {**GOOD, "pos": [*GOOD["pos"], "the flow separates"], "neg": ["one", "two", "three"]},
        {"query": "long", "pos": [long], "neg": [], "query_id": "7"},
    ]
    file = write(tmp_path / "pairs" / "x.jsonl.gz", *rows)
    run(data, tmp_path / "out", file, "--most-negatives", 2)
    counts = json.loads((tmp_path / "out" / "counts.json").read_text())
    assert counts["x.jsonl"] == {
        "rows": 2,
        "dropped": {
            "further positives": 1, "negatives beyond the most": 1, "positives cut to 400 words": 1,
            "ids or scores of a row": 1,
        },
    }  # fmt: skip
    first, second = map(json.loads, (tmp_path / "out" / "x.jsonl").read_text().splitlines())
    assert first == {**GOOD, "neg": ["one", "two"]}
    assert second == {"query": "long", "pos": [long.removesuffix(" word400")], "neg": []}
    run(data, tmp_path / "out", file, write(tmp_path / "pairs" / "y.jsonl", GOOD, {**GOOD, "query": "b"}), "--limit", 1)
    counts = json.loads((tmp_path / "out" / "counts.json").read_text())
    assert counts["x.jsonl"]["dropped"].keys() >= {"over the limit", "further positives"}
    assert counts["y.jsonl"] == {"rows": 1, "dropped": {"over the limit": 1}}


def test_no_input_is_replaced(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, plain = write(tmp_path / "in" / "a.jsonl", GOOD), write(tmp_path / "in" / "x.jsonl", GOOD)
    before = plain.read_bytes()
    assert "x.jsonl is the output itself" in one_line(refused(capsys, data, tmp_path / "in", plain))
    other = write(tmp_path / "out" / "x.jsonl", GOOD, GOOD)
    assert "does not name it" in one_line(refused(capsys, data, tmp_path / "out", good, plain))
    assert plain.read_bytes() == before
    assert other.read_bytes() == before * 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["x.jsonl"]


@pytest.mark.parametrize("second", ["b/x.jsonl", "a/x.jsonl.gz", "b/X.jsonl"])
def test_two_files_of_one_name_are_refused_before_anything_is_written(
    second: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write(tmp_path / "a" / "x.jsonl", GOOD), write(tmp_path / second, GOOD)
    told = one_line(refused(capsys, data, tmp_path / "out", *files))
    assert all(str(file) in told for file in files)
    assert "rename one of them" in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"query": "a wing", "pos": "lift holds it up"}', "has the pos 'lift holds it up'; write a list"),
        ('{"query": "a wing"}', "has no positive"),
        ("{", "is not JSON"),
        ("7", "is a JSON int"),
    ],
)
def test_a_wrong_row_is_named_with_its_line(
    line: str, told: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "in" / "x.jsonl", GOOD)
    file.write_text(file.read_text() + line + "\n")
    found = one_line(refused(capsys, data, tmp_path / "out", file))
    assert f"{file}:2" in found
    assert told in found
    assert not (tmp_path / "out").exists()


def test_missing_files_and_wrong_folders_are_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, output = write(tmp_path / "in" / "x.jsonl", GOOD), tmp_path / "out"
    assert "no such file" in one_line(refused(capsys, data, output, file, tmp_path / "gone.jsonl"))
    assert "rename the file" in one_line(refused(capsys, data, output, write(tmp_path / "x.json", GOOD)))
    assert "no such folder" in one_line(refused(capsys, tmp_path / "nothing", output, file))
    (data / "stsb" / "en-test.tsv").unlink()
    assert "en-test.tsv cannot be read" in one_line(refused(capsys, data, output, file))
    assert not output.exists()


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"mine": 1}', "[" * 100_000])
def test_counts_that_are_not_this_scripts_stay(
    content: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, counts = write(tmp_path / "in" / "x.jsonl", GOOD), tmp_path / "out" / "counts.json"
    counts.parent.mkdir()
    counts.write_text(content)
    assert "does not hold the counts of this script" in one_line(refused(capsys, data, tmp_path / "out", file))
    assert counts.read_text() == content
    assert not (tmp_path / "out" / "x.jsonl").exists()


@pytest.mark.parametrize("given", [["--limit", "-1"], ["--most-negatives", "-1"], ["--limit", "many"]])
def test_counts_below_0_are_refused(
    given: list[str], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refused(capsys, data, tmp_path / "out", write(tmp_path / "in" / "x.jsonl", GOOD), *given)
    assert f"argument {given[0]}: {given[1]} is not a whole number from 0" in told
    assert not (tmp_path / "out").exists()
