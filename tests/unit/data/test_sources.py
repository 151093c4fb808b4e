"""Which files of a folder are read, and that the others are named."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from llama2vec.data.corpus import corpus_fingerprint, count_passages, read_passages
from llama2vec.data.sources import locate
from llama2vec.errors import CorpusFormatError


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
    assert count_passages(tmp_path) == 2


def test_an_id_counts_once_over_all_parts(tmp_path: Path) -> None:
    made(tmp_path, a_jsonl='{"_id": "1", "text": "x"}', b_jsonl='{"_id": "1", "text": "x"}')
    with pytest.raises(CorpusFormatError, match=r"b\.jsonl:1 repeats the id '1'"):
        list(read_passages(tmp_path))


@pytest.mark.parametrize("other", ["notes_txt", "queries_jsonl"])
def test_a_folder_of_two_kinds_is_refused(tmp_path: Path, other: str) -> None:
    made(tmp_path, a_jsonl="{}", **{other: "{}"})
    with pytest.raises(CorpusFormatError, match=r"holds a\.jsonl and (notes\.txt|queries\.jsonl), and no corpus"):
        locate(str(tmp_path), "corpus")


def test_skipped_files_are_counted_and_named(tmp_path: Path) -> None:
    made(tmp_path, a_txt="x", sub__b_pdf="", c_html="", d_docx="", e_csv="")
    assert locate(str(tmp_path), "corpus").skipped == (
        f"{tmp_path}: read 1 .txt and .md files, skipped 4 others (b.pdf, c.html, d.docx, …)"
    )


def test_a_linked_folder_is_read_once_and_a_circle_ends(tmp_path: Path) -> None:
    made(tmp_path / "elsewhere", b_txt="linked")
    made(tmp_path / "docs", a_txt="here")
    (tmp_path / "docs" / "link").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (tmp_path / "docs" / "zcircle").symlink_to(tmp_path / "docs", target_is_directory=True)
    assert [passage.id for passage in read_passages(tmp_path / "docs")] == ["a", "link/b"]
    assert "skipped 1 other (zcircle)" in locate(str(tmp_path / "docs"), "corpus").skipped
    assert len(corpus_fingerprint(tmp_path / "docs")) == 64


def test_a_dangling_link_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to(tmp_path / "gone")
    with pytest.raises(CorpusFormatError, match=r"a\.txt cannot be read \(No such file or directory\)"):
        list(read_passages(tmp_path))
