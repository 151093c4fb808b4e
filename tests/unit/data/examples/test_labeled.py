import sys
from pathlib import Path
from types import ModuleType

import pytest
from sample_files import complaint, jsonl, written

from llama2vec.data.examples.labeled import (
    examples_fingerprint,
    named_fingerprint,
    read_examples,
    splits_of,
    write_examples,
)
from llama2vec.errors import ConfigError, DataError, ExampleFormatError, MissingDependencyError, OutputExistsError
from llama2vec.records import TrainingExample

FULL = TrainingExample(
    query="what hums?",
    positives=("A llama\u2028hums.", "Alpacas hum."),
    negatives=("Stones are still.",),
    positive_scores=(0.1 + 0.2, 2.0),
    negative_scores=(-1e-9,),
    query_id="q1",
    positive_ids=("p1", "p2"),
    negative_ids=("n1",),
)
PLAIN = TrainingExample("how old?", ("Very.",))


# ----------------------------------------------------------------------------------------------------------- JSONL


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_written_examples_read_back_the_same_in_every_field(tmp_path: Path, name: str) -> None:
    assert write_examples([FULL, PLAIN], tmp_path / "new" / name) == 2
    assert list(read_examples(tmp_path / "new" / name)) == [FULL, PLAIN]
    assert list(read_examples(str(tmp_path / "new" / name), limit=1)) == [FULL]


def test_equal_examples_make_equal_gzip_files(tmp_path: Path) -> None:
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write_examples([FULL], tmp_path / name)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_a_write_that_fails_leaves_nothing_and_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with pytest.raises(ExampleFormatError, match=r"a\.jsonl: example 2 has an empty query"):
        write_examples([PLAIN, TrainingExample(" ", ("x",))], path)
    with pytest.raises(ExampleFormatError, match="no examples to write"):
        write_examples([], path)
    assert list(tmp_path.iterdir()) == []
    write_examples([PLAIN], path)
    with pytest.raises(OutputExistsError, match="--overwrite"):
        write_examples([FULL], path)
    with pytest.raises(ExampleFormatError):
        write_examples([FULL, TrainingExample("q", ())], path, overwrite=True)
    assert list(read_examples(path)) == [PLAIN]
    write_examples([FULL], path, overwrite=True)
    assert list(read_examples(path)) == [FULL]
    with pytest.raises(ExampleFormatError, match=r"written as \.jsonl"):
        write_examples([FULL], tmp_path / "a.parquet")


def test_a_missing_unknown_or_empty_source_says_what_to_give(tmp_path: Path) -> None:
    # The path is checked when the function is called, not when the first example is wanted.
    with pytest.raises(ExampleFormatError, match=r"no such file or folder; give a \.jsonl"):
        read_examples(tmp_path / "nowhere")
    assert "unknown kind of file" in complaint(written(tmp_path / "a.csv", "x"))
    assert "contains no training examples" in complaint(written(tmp_path / "a.jsonl", "\n"))
    (tmp_path / "folder").mkdir()
    assert "contains no qrels folder and no qidpidtriples" in complaint(tmp_path / "folder")
    with pytest.raises(ConfigError, match="at least 1"):
        read_examples(tmp_path / "a.jsonl", limit=0)
    short = written(tmp_path / "a.jsonl.gz", jsonl([{"query": "q", "pos": ["a"]}] * 1000))
    short.write_bytes(short.read_bytes()[:-20])
    assert "ends in the middle of its gzip data" in complaint(short)


# ------------------------------------------------------------------------------------------------------------ BEIR


def beir(folder: Path, qrels: str) -> Path:
    corpus = [
        {"_id": "p", "title": "Llama", "text": "A camelid."},
        {"_id": "same", "title": "", "text": "Llama  A camelid."},
        {"_id": "n", "text": "A stone."},
        {"_id": "empty", "text": ""},
    ]
    written(folder / "corpus.jsonl", jsonl(corpus))
    written(folder / "queries.jsonl", jsonl([{"_id": "1", "text": "hums?"}, {"_id": "2", "text": "hard?"}]))
    written(folder / "qrels" / "train.tsv", f"query-id\tcorpus-id\tscore\n{qrels}")
    return folder


def test_a_beir_folder_gives_relevant_passages_and_those_judged_not_relevant(tmp_path: Path) -> None:
    # "same" is p's text under another id, 2 has nothing relevant, -1 says nothing certain.
    folder = beir(tmp_path, "1\tp\t2\n1\tn\t0\n1\tsame\t0\n1\tempty\t0\n2\tp\t0\n2\tn\t-1\n")
    expected = TrainingExample(
        "hums?", ("Llama A camelid.",), ("A stone.",), query_id="1", positive_ids=("p",), negative_ids=("n",)
    )
    assert list(read_examples(folder)) == [expected]


def test_queries_without_a_relevant_passage_are_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def warnings(qrels: str) -> list[str]:
        caplog.clear()
        assert [example.query_id for example in read_examples(beir(tmp_path, qrels))] == ["1"]
        return caplog.messages

    assert warnings("1\tp\t1\n") == []
    assert warnings("1\tp\t1\n2\tp\t0\n2\tn\t-1\n") == [
        f"{tmp_path / 'qrels' / 'train.tsv'}: 1 of 2 judged queries has no relevant passage and is left out ('2')"
    ]
    more = "".join(f"{number}\tn\t0\n" for number in range(3, 7))
    queries = tmp_path / "queries.jsonl"
    beir(tmp_path, "1\tp\t1\n")
    written(queries, jsonl([{"_id": str(number), "text": "hums?"} for number in range(1, 7)]))
    written(tmp_path / "qrels" / "train.tsv", f"query-id\tcorpus-id\tscore\n1\tp\t1\n{more}")
    caplog.clear()
    assert len(list(read_examples(tmp_path))) == 1
    assert caplog.messages[0].endswith(
        "4 of 5 judged queries have no relevant passage and are left out ('3', '4', '5', …)"
    )


def test_faults_of_a_beir_folder_name_the_split_the_query_or_the_passage(tmp_path: Path) -> None:
    assert "has no qrels/dev.tsv; splits here: train" in complaint(beir(tmp_path, "1\tp\t1\n"), "dev")
    message = complaint(beir(tmp_path, "1\tgone\t1\n"))
    assert (
        f"{tmp_path / 'qrels' / 'train.tsv'}, query '1', judges passage 'gone', which is not in the corpus" in message
    )
    assert "query '2', has an empty text" in complaint(beir(tmp_path, "2\tempty\t1\n"))
    assert "contains no training examples" in complaint(beir(tmp_path, "2\tp\t0\n"))


def test_a_fingerprint_follows_every_file_that_is_read_but_not_the_place(tmp_path: Path) -> None:
    one, two = (beir(tmp_path / name, "1\tp\t1\n") for name in ("one", "two"))
    original = examples_fingerprint(one)
    assert examples_fingerprint(two) == original
    written(two / "qrels" / "test.tsv", "1\tn\t1\n")
    assert examples_fingerprint(two) == original != examples_fingerprint(two, split="test")
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/train.tsv"):
        before, content = examples_fingerprint(two), (two / name).read_text(encoding="utf-8")
        written(two / name, content + "\n")
        assert examples_fingerprint(two) != before
    assert examples_fingerprint("hf:a") != examples_fingerprint("hf:a", split="dev")
    with pytest.raises(ExampleFormatError, match="no such file"):
        examples_fingerprint(tmp_path / "nowhere")


def test_the_name_of_a_single_file_is_no_part_of_what_it_holds(tmp_path: Path) -> None:
    rows = '{"query": "q", "pos": ["a"]}\n'
    one, two, table = (tmp_path / name for name in ("one.jsonl", "two.jsonl", "three.tsv"))
    for path in (one, two, table):
        path.write_text(rows, encoding="utf-8")
    assert examples_fingerprint(one) == examples_fingerprint(two) != examples_fingerprint(table)
    assert named_fingerprint(one) != named_fingerprint(two)
    before = examples_fingerprint(one)
    one.write_text(rows * 2, encoding="utf-8")
    assert examples_fingerprint(one) != before


def test_a_split_of_a_single_file_is_refused(tmp_path: Path) -> None:
    rows, table, folder = tmp_path / "a.jsonl", tmp_path / "b.tsv", beir(tmp_path / "beir", "1\tp\t1\n")
    rows.write_text('{"query": "q", "pos": ["a"]}\n', encoding="utf-8")
    table.write_text("q\ta\tb\n", encoding="utf-8")
    for path in (rows, table):
        for read in (read_examples, examples_fingerprint):
            with pytest.raises(ConfigError, match=rf"{path.name} is a file, which has no splits; drop the split 'dev'"):
                read(path, split="dev")
    with pytest.raises(ConfigError, match="is a file, which has no splits"):
        splits_of([str(rows), str(table)], "dev")
    assert splits_of([str(rows), str(folder)], "dev") == ["train", "dev"]
    assert splits_of([str(rows), "hf:a"], "train") == ["train", "train"]


# ---------------------------------------------------------------------------------------------------- Hugging Face


class FakeHub(ModuleType):
    def __init__(self, splits: dict[str, list[dict[str, object]]]) -> None:
        super().__init__("datasets")
        self.splits = splits

    def get_dataset_config_names(self, name: str) -> list[str]:
        return ["default"]

    def load_dataset(self, name: str, config: str | None, *, split: str | None, streaming: bool) -> object:
        assert streaming
        return self.splits[split] if split else self.splits


def test_hub_rows_are_read_by_split_and_other_columns_are_left_and_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    train: list[dict[str, object]] = [{"anchor": "q", "positive": "a", "negative": "b", "subset": 1}]
    dev: list[dict[str, object]] = [{"query": "q", "pos": ["a"], "neg": []}, {"query": "q", "pos": []}]
    monkeypatch.setitem(sys.modules, "datasets", FakeHub({"train": train, "dev": dev}))
    with caplog.at_level("INFO", logger="llama2vec.data.examples.labeled"):
        assert list(read_examples("hf:org/x")) == [TrainingExample("q", ("a",), ("b",))]
    assert caplog.messages == ["hf:org/x: ignored columns: subset"]
    assert next(read_examples("hf:org/x:dev")) == next(read_examples("hf:org/x", split="dev"))
    assert complaint("hf:org/x", "dev").startswith("hf:org/x, row 1, has no positive")
    with pytest.raises(DataError, match="has the splits train, dev; choose one"):
        read_examples("hf:org/x", split="test")


def test_the_hub_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'llama2vec\[hub\]'"):
        read_examples("hf:x")
