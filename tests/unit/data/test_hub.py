"""Corpora that are data sets of a hub."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from llama2vec.data.corpus import count_passages, read_passages
from llama2vec.errors import CorpusFormatError, MissingDependencyError
from llama2vec.records import Passage


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
