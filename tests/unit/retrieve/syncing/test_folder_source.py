"""Real readers and the real splitter as what an index follows."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from llama2vec.data.documents.splitting import Splitter
from llama2vec.data.settings import PassageSettings, ReadingSettings
from llama2vec.data.text.words import word_spans
from llama2vec.errors import UnreadableError
from llama2vec.retrieve.syncing.folder_source import FolderSource


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
