"""Where data come from: which files of a folder are read, that others are named, and data sets of a hub."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from llama2vec.data.corpus.passages import corpus_fingerprint, count_passages, read_passages
from llama2vec.data.corpus.sources import locate
from llama2vec.errors import CorpusFormatError, MissingDependencyError
from llama2vec.records import Passage


def made(folder: Path, **files: str) -> Path:
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return folder


def test_jsonl_parts_are_one_corpus_and_the_readme_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made(tmp_path, b_jsonl='{"_id": "2", "text": "y"}', a_jsonl='{"_id": "1", "text": "x"}', README_md="# About")
    with caplog.at_level(logging.INFO):
        assert [passage.id for passage in read_passages(tmp_path)] == ["1", "2"]
        list(read_passages(tmp_path))
    assert caplog.messages == [f"{tmp_path}: read 2 .jsonl parts, skipped 1 other (README.md)"]
    made(tmp_path, guides__a_md="# A")
    assert locate(str(tmp_path), "corpus").skipped.endswith("skipped 2 others (README.md, guides/)")
    assert count_passages(tmp_path) == 2


def test_an_id_counts_once_over_all_parts(tmp_path: Path) -> None:
    made(tmp_path, a_jsonl='{"_id": "1", "text": "x"}', b_jsonl='{"_id": "1", "text": "x"}')
    with pytest.raises(CorpusFormatError, match=r"b\.jsonl:1 repeats the id '1'"):
        list(read_passages(tmp_path))


def test_parts_next_to_queries_are_refused(tmp_path: Path) -> None:
    made(tmp_path, a_jsonl="{}", queries_jsonl="{}")
    with pytest.raises(CorpusFormatError, match=r"holds a\.jsonl and queries\.jsonl, and no corpus"):
        locate(str(tmp_path), "corpus")


@pytest.mark.parametrize(
    ("other", "layout"), [("notes_txt", "documents"), ("a_pdf", "documents"), ("stats_csv", "jsonl")]
)
def test_parts_next_to_other_documents_are_documents(tmp_path: Path, other: str, layout: str) -> None:
    made(tmp_path, a_jsonl='{"text": "x"}', **{other: "y"})
    assert locate(str(tmp_path), "corpus").layout == layout


def test_a_linked_folder_is_read_once_within_the_folder_and_a_circle_ends(tmp_path: Path) -> None:
    made(tmp_path / "docs", a_txt="here", _store__b_txt="linked")
    (tmp_path / "docs" / "link").symlink_to(tmp_path / "docs" / ".store", target_is_directory=True)
    (tmp_path / "docs" / "zcircle").symlink_to(tmp_path / "docs", target_is_directory=True)
    assert [passage.id for passage in read_passages(tmp_path / "docs")] == ["a.txt", "link/b.txt"]
    found = locate(str(tmp_path / "docs"), "corpus").walk
    assert found is not None
    assert [one.name for one in found.skipped] == ["zcircle/"]
    assert len(corpus_fingerprint(tmp_path / "docs")) == 64


def test_a_single_file_is_read_by_its_suffix(tmp_path: Path) -> None:
    made(tmp_path, a_jsonl="{}", a_tsv="1\tx", a_csv="a,b", a_html="x")
    found = {path.name: locate(str(path), "corpus").layout for path in sorted(tmp_path.iterdir())}
    assert found == {"a.csv": "documents", "a.html": "documents", "a.jsonl": "jsonl", "a.tsv": "tsv"}


def complaint(source: str | Path) -> str:
    with pytest.raises(CorpusFormatError) as caught:
        list(read_passages(source))
    assert "\n" not in str(caught.value)
    return str(caught.value)


class FakeHub(ModuleType):
    """Stands in for the datasets package: one data set with a configuration ``corpus``."""

    def __init__(self, splits: dict[str, list[dict[str, object]]]) -> None:
        super().__init__("datasets")
        self.splits = splits
        self.asked: tuple[object, ...] = ()

    def get_dataset_config_names(self, name: str) -> list[str]:
        return ["corpus"]

    def load_dataset(self, name: str, config: str | None, *, split: str | None, streaming: bool) -> object:
        assert streaming
        self.asked = (name, config, split)
        if name == "gone":
            raise ConnectionError("no route\nto host")
        return self.splits[split] if split else self.splits


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        ("hf:org/x", ("org/x", None, None)),
        ("hf:org/x:corpus", ("org/x", "corpus", None)),
        ("hf:org/x:train", ("org/x", None, "train")),
        ("hf:org/x::train", ("org/x", None, "train")),
        ("hf:org/x:corpus:train", ("org/x", "corpus", "train")),
    ],
)
def test_a_hub_name_may_carry_configuration_and_split(
    monkeypatch: pytest.MonkeyPatch, source: str, asked: tuple[str | None, ...]
) -> None:
    hub = FakeHub({"train": [{"docid": 4, "text": "x"}, {"docid": 5, "text": "y", "title": "t"}], "test": []})
    monkeypatch.setitem(sys.modules, "datasets", hub)
    assert list(read_passages(source)) == [Passage("4", "x"), Passage("5", "y", "t")]
    assert hub.asked == asked
    assert count_passages(source) is None


def test_hub_rows_without_an_id_are_numbered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", FakeHub({"corpus": [{"text": "x"}, {"text": "y"}]}))
    assert [passage.id for passage in read_passages("hf:x")] == ["0", "1"]


def test_hub_mistakes_are_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", FakeHub({"dev": [{"body": "x"}], "test": []}))
    assert "has the splits dev, test; choose one" in complaint("hf:x")
    assert 'hf:x::dev, row 0, has no "text" (only body)' in complaint("hf:x::dev")
    assert "hf:gone cannot be read (no route)" in complaint("hf:gone")
    assert "names no dataset" in complaint("hf:a:b:c:d")
    assert "names no dataset" in complaint("hf:")


def test_ir_datasets_documents_keep_their_titles(monkeypatch: pytest.MonkeyPatch) -> None:
    documents = [
        SimpleNamespace(doc_id="1", title="t", text="x"),
        SimpleNamespace(doc_id="2", default_text=lambda: "y"),
    ]
    module = ModuleType("ir_datasets")
    known = {
        "good": SimpleNamespace(has_docs=lambda: True, docs_iter=lambda: iter(documents)),
        "queries-only": SimpleNamespace(has_docs=lambda: False),
    }
    module.load = known.__getitem__  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ir_datasets", module)
    assert list(read_passages("ir:good")) == [Passage("1", "x", "t"), Passage("2", "y")]
    assert "has no documents" in complaint("ir:queries-only")
    assert "ir:bad cannot be read" in complaint("ir:bad")


@pytest.mark.parametrize(("source", "module"), [("hf:x", "datasets"), ("ir:x", "ir_datasets")])
def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, source: str, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'llama2vec\[hub\]'"):
        read_passages(source)


@pytest.mark.parametrize(("name", "reason"), [("a.png", "a picture"), ("a.xyz", r"unknown kind of file \(\.xyz\)")])
def test_a_file_of_no_known_kind_says_what_it_is(tmp_path: Path, name: str, reason: str) -> None:
    (tmp_path / name).write_bytes(b"\0\1")
    with pytest.raises(CorpusFormatError, match=f"{name}: {reason}; give a BEIR folder"):
        locate(str(tmp_path / name), "corpus")


@pytest.mark.parametrize("name", ["README", "a.tex", "a.srt"])
def test_a_text_of_any_suffix_is_one_document(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("Llamas hum.")
    assert [one.text for one in read_passages(tmp_path / name)] == ["Llamas hum."]
