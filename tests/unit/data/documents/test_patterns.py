"""Patterns of files, as in .gitignore: what each way of writing one means, and which match nothing."""

from __future__ import annotations

import pytest

from llama2vec.data.documents.patterns import Patterns
from llama2vec.data.settings import ReadingSettings

FILES = ("a.md", "SCAN.PDF", "drafts/b.md", "old/drafts/deep/c.md", "old/d.pdf", "Plan/drafts")


def read(**settings: object) -> list[str]:
    """Return which of the files are read, asking about folders first, as a walk does."""
    patterns, found = Patterns(ReadingSettings.model_validate(settings)), []
    for name in FILES:
        parts = name.split("/")
        folders = ["/".join(parts[:depth]) for depth in range(1, len(parts))]
        if not any(patterns.rules_out(one, folder=True) for one in folders) and not patterns.rules_out(name):
            found.append(name)
    return found


@pytest.mark.parametrize("pattern", ["drafts/**", "./drafts/**", "/drafts/**", "/drafts", "/drafts/", "Drafts/**"])
def test_a_folder_at_the_top_can_be_named_in_any_way(pattern: str) -> None:
    assert read(exclude=[pattern]) == [one for one in FILES if one != "drafts/b.md"]
    assert read(include=[pattern]) == ["drafts/b.md"]


@pytest.mark.parametrize("pattern", ["drafts", "DRAFTS", "**/drafts"])
def test_a_name_alone_means_files_and_folders_at_any_depth(pattern: str) -> None:
    assert read(exclude=[pattern]) == ["a.md", "SCAN.PDF", "old/d.pdf"]


@pytest.mark.parametrize("pattern", ["drafts/", "./drafts/", "**/drafts/**"])
def test_a_slash_at_the_end_means_folders_alone(pattern: str) -> None:
    assert read(exclude=[pattern]) == ["a.md", "SCAN.PDF", "old/d.pdf", "Plan/drafts"]


def test_case_and_the_way_of_writing_accents_do_not_count() -> None:
    assert read(exclude=["*.pdf"]) == [one for one in FILES if not one.lower().endswith(".pdf")]
    patterns = Patterns(ReadingSettings(exclude=("Entwürfe/",)))
    assert patterns.rules_out("entwu\u0308rfe", folder=True) == "excluded by Entwürfe/"


def test_two_stars_stand_for_any_folders_and_for_none() -> None:
    assert read(include=["old/**/*.pdf"]) == ["old/d.pdf"]
    assert read(include=["old/**/c.md"]) == ["old/drafts/deep/c.md"]
    assert read(exclude=["/**"]) == read(exclude=["**/*"]) == read(exclude=["*"]) == []


def test_patterns_are_added_to_the_defaults_and_can_take_them_back() -> None:
    def ruled_out(*exclude: str) -> list[bool]:
        patterns = Patterns(ReadingSettings(exclude=exclude))
        folders = ("node_modules", "x/_static")
        return [bool(patterns.rules_out(one, folder=True)) for one in folders] + [bool(patterns.rules_out("a.min.js"))]

    assert ruled_out() == ruled_out("drafts/") == [True, True, True]
    assert ruled_out("!node_modules/") == [False, True, True]
    assert ruled_out("!*") == [False, False, False]
    assert ruled_out("!*", "_static/") == [False, True, False]
    patterns = Patterns(ReadingSettings(exclude=("!node_modules/",)))
    assert patterns.rules_out("node_modules", folder=True) == patterns.rules_out("node_modules/a.md") == ""


def test_a_pattern_that_matches_nothing_is_named() -> None:
    patterns = Patterns(ReadingSettings(include=("*.md", "*.rst"), exclude=("Draft/", "../x", "old", ".git/", "!*.md")))
    assert patterns.rules_out("old", folder=True) == "excluded by old"
    assert patterns.rules_out("a.md") == ""
    assert [one.partition(";")[0] for one in patterns.warnings()] == [
        "the include pattern '*.rst' matches no file",
        "the exclude pattern 'Draft/' leaves nothing out",
        "the exclude pattern '../x' leaves nothing out",
    ]
