from collections.abc import Callable
from dataclasses import astuple
from pathlib import Path

import pytest
from made_results import NEW, OLD, make_report, write_evaluation
from running import CommandLine

Writer = Callable[..., Path]


@pytest.fixture
def evaluation(tmp_path: Path) -> Writer:
    """Write a folder like ``evaluate --output`` and return it."""
    return lambda name, *reports: write_evaluation(tmp_path / name, *reports)


def test_the_page_is_written_and_not_over_another(
    command_line: CommandLine, evaluation: Writer, tmp_path: Path
) -> None:
    sources = evaluation("a", make_report("old", OLD)), evaluation("b", make_report("new", NEW))
    page = tmp_path / "out" / "page.html"
    command = ["report", *sources, "--output", page, "--title", "Old and new"]
    assert astuple(command_line(*command)) == (0, f"Wrote {page}\n", "")
    first = page.read_bytes()
    assert b"<title>Old and new</title>" in first
    assert f"llama2vec report {sources[0]} {sources[1]} --output".encode() in first
    line = command_line.refused(*command)
    assert line == f"llama2vec: {page} exists already; choose another path or --overwrite"
    assert command_line(*command, "--overwrite").code == 0
    assert page.read_bytes() == first


def test_a_mistake_is_one_line_and_leaves_nothing_behind(
    command_line: CommandLine, evaluation: Writer, tmp_path: Path
) -> None:
    one = evaluation("a", make_report("old", OLD, corpus_fingerprint="f00d"))
    two = evaluation("b", make_report("new", NEW, corpus_fingerprint="beef"))
    (tmp_path / "foreign").mkdir()
    page = tmp_path / "out" / "page.html"
    scores = one / "tiny-test.json"
    for arguments, problem in (
        ([], "nothing to report"),
        ([one, two], "different corpora"),
        ([tmp_path / "foreign"], "foreign holds no result to report"),
        ([one, tmp_path / "gone"], "gone does not exist"),
        ([one, "--baseline", "odl"], "--baseline odl: no such system in these results; there are: old"),
    ):
        assert problem in command_line.refused("report", *arguments, "--output", page)
        assert not page.parent.exists()
    assert "is the output itself" in command_line.refused("report", one, "--output", scores, "--overwrite")
    assert b"llama2vec-evaluation" in scores.read_bytes()
    for name, content in (("corpus.jsonl", '{"_id": "p1"}\n'), ("own.html", "<!DOCTYPE html>\n<title>Mine</title>\n")):
        (tmp_path / name).write_text(content, encoding="utf-8")
        line = command_line.refused("report", one, "--output", tmp_path / name, "--overwrite")
        assert "does not hold a page of `llama2vec report`" in line
        assert (tmp_path / name).read_text(encoding="utf-8") == content
