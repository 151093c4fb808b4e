"""``documents.json``: what an index holds of each file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llama2vec.errors import StoreError
from llama2vec.retrieve.syncing.inventory import LIBRARY, FileRecord, Inventory

FILES = (
    FileRecord(path="a.md", size=3, modified_ns=5, sha256="aa", passages=2, removed=(1,), removed_texts=("ee:0",)),
    FileRecord(path="b.pdf", skipped="encrypted"),
    FileRecord(path="ü/c.md", sha256="cc", passages=1, problems=("page 2 is a picture",)),
)
MADE = Inventory(folder="/docs", settings={"kind": "exact"}, source={}, plan={"tokens": 256}, files=FILES)


def test_it_reads_back_and_has_one_line_per_file(tmp_path: Path) -> None:
    MADE.write(tmp_path)
    assert Inventory.read(tmp_path) == MADE
    lines = (tmp_path / "documents.json").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line.rstrip(","))["path"] for line in lines[1:-1]] == ["a.md", "b.pdf", "ü/c.md"]
    assert json.loads("\n".join(lines))["format"] == "llama2vec-library"


def test_a_changed_inventory_is_refused(tmp_path: Path) -> None:
    MADE.write(tmp_path)
    file = tmp_path / "documents.json"
    text = file.read_text(encoding="utf-8")
    for before, after in (('"aa"', '"ab"'), ('"tokens": 256', '"tokens": 128'), ('"passages":2', '"passages":3')):
        assert before in text
        file.write_text(text.replace(before, after, 1), encoding="utf-8")
        with pytest.raises(
            StoreError, match=r"documents\.json was changed after it was written; restore it, or delete"
        ):
            Inventory.read(tmp_path)


def test_files_own_the_rows_of_the_store_in_their_order() -> None:
    assert [(record.path, list(rows)) for record, rows in MADE.spans()] == [
        ("a.md", [0, 1]), ("b.pdf", []), ("ü/c.md", [2]),
    ]  # fmt: skip


def test_the_fingerprint_follows_what_decides_the_passages_and_nothing_else() -> None:
    def changed(**facts: object) -> str:
        first = FILES[0].model_copy(update=facts)
        return MADE.model_copy(update={"files": (first, *FILES[1:])}).fingerprint

    assert changed(modified_ns=6) == MADE.fingerprint
    others = (
        changed(sha256="ab"), changed(path="0.md"), changed(removed=(0,)), changed(stamp="2026-11-25"),
        changed(numbers={"a.md": 2}),
    )  # fmt: skip
    assert len({MADE.fingerprint, *others}) == 6
    assert MADE.model_copy(update={"plan": {"tokens": 128}}).fingerprint != MADE.fingerprint


def test_an_index_is_known_by_its_content_and_whole_only_with_store_and_index(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is not an index that follows a folder; make one with `llama2vec sync`"):
        Inventory.read(tmp_path)
    assert LIBRARY.read(tmp_path) is None
    MADE.write(tmp_path)
    for name in ("store/store.json", "index/index.json"):
        found = LIBRARY.read(tmp_path)
        assert found is not None
        assert not found.finished
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("{}")
    found = LIBRARY.read(tmp_path)
    assert found is not None
    assert found.finished
    (tmp_path / "documents.json").write_text('{"format": "llama2vec-library", "files": 3}')
    with pytest.raises(StoreError, match=r"documents\.json: folder is damaged; delete .* and sync again"):
        Inventory.read(tmp_path)


def test_a_place_without_the_text_that_was_removed_there_is_refused(tmp_path: Path) -> None:
    without_text = FILES[0].model_copy(update={"removed_texts": ()})
    MADE.model_copy(update={"files": (without_text,)}).write(tmp_path)
    with pytest.raises(StoreError, match=r"documents\.json: files\.0\.removed_texts is damaged; delete .* sync again"):
        Inventory.read(tmp_path)
    assert FileRecord(path="a.md", removed="all").removed_texts == ()
