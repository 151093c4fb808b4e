"""Real readers and the real splitter as what an index follows."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from llama2vec.data.documents.readers import json_rows, table_rows
from llama2vec.data.documents.splitting import Splitter
from llama2vec.data.settings import PassageSettings, ReadingSettings
from llama2vec.data.text.words import word_spans
from llama2vec.errors import UnreadableError
from llama2vec.retrieve.store.reader import VectorStore
from llama2vec.retrieve.syncing import folder_source
from llama2vec.retrieve.syncing.folder_source import FolderSource
from llama2vec.retrieve.syncing.library import Library


def source(folder: Path, tokens: int = 16, **reading: object) -> FolderSource:
    splitter = Splitter(PassageSettings(tokens=tokens, overlap=0), word_spans)
    return FolderSource(folder, ReadingSettings.model_validate(reading), splitter)


def test_files_are_read_by_format_and_split_and_carry_their_day(tmp_path: Path) -> None:
    (tmp_path / "guide.md").write_text("# Guide\n\nOne two three.\n\n## Install\n\n" + "Take the wool. " * 12)
    (tmp_path / "empty.md").write_text("")
    os.utime(tmp_path / "guide.md", (1_700_000_000, 1_700_000_000))
    made = source(tmp_path)
    empty, guide = made.walk([]).files
    passages, problems = made.read(guide, made.content(guide))
    assert [passage.id for passage in passages] == [f"guide.md#{number}" for number in range(1, len(passages) + 1)]
    assert passages[-1].title == "Guide › Install"
    assert {passage.fields["modified"] for passage in passages} == {"2023-11-14"} == {made.stamp(guide)}
    assert problems == []
    with pytest.raises(UnreadableError, match=r"^empty$"):
        made.read(empty, made.content(empty))


def test_a_time_after_the_calendar_is_its_last_day_for_the_stamp_too(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("One.")
    made = source(tmp_path)
    file = replace(made.walk([]).files[0], modified_ns=10**12 * 10**9)
    [passage] = made.read(file, b"One.")[0]
    assert passage.fields["modified"] == made.stamp(file) == "9999-12-31"


def test_the_plan_holds_what_decides_the_passages_and_not_which_files_there_are(tmp_path: Path) -> None:
    plan = source(tmp_path).plan
    assert source(tmp_path, include=("*.md",), strict=True).plan == plan
    assert source(tmp_path, 17).plan != plan != source(tmp_path, encoding="cp1252").plan
    assert plan["packages"].keys() >= {"pypdfium2", "selectolax"}
    settings = source(tmp_path, include=("*.md",)).settings
    assert (settings["reading"]["include"], settings["passages"]["tokens"]) == (["*.md"], 16)


def test_a_removed_row_stays_removed_when_newer_readers_end_its_text_with_its_other_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, index = tmp_path / "docs", tmp_path / "index"
    folder.mkdir()
    rows = [f"{verb} the wool with care before you go on to the next step,{verb}er" for verb in ("Tak", "Wash", "Dry")]
    (folder / "wool.csv").write_text("\n".join(["text,tool", *rows]))
    (folder / "wool.jsonl").write_text('{"text": "Spin.", "color": "red"}\n{"text": "Weave.", "color": "blue"}\n')

    def synced() -> list[str]:
        Library(index).sync(source(folder), None)
        store = VectorStore.open(index / "store")
        return [passage.text for passage in store.passages(range(len(store)))]

    with monkeypatch.context() as earlier:
        earlier.setattr(folder_source, "_READERS", 5)
        for reader in (json_rows, table_rows):
            earlier.setattr(reader, "mentioned", lambda *_, **__: "")
        before = synced()
        assert any(text.startswith("Wash") for text in before)
        assert not any("Dryer" in text for text in before)
        Library(index).remove(["wool.csv#3", "wool.jsonl#1"])
    now = synced()
    assert len(now) == len(before) - 2
    assert any("Dryer" in text for text in now)
    assert not any("Wash" in text or "Spin" in text for text in now)
