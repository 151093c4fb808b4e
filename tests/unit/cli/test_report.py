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


def test_the_page_and_its_twins_are_written_and_not_over_others(
    command_line: CommandLine, evaluation: Writer, tmp_path: Path
) -> None:
    sources = evaluation("a", make_report("old", OLD)), evaluation("b", make_report("new", NEW))
    page, text, data = (tmp_path / "out" / name for name in ("page.html", "page.md", "page.json"))
    arguments = [*sources, "--output", page, "--markdown", text, "--json", data, "--title", "Old and new"]
    assert astuple(command_line("report", *arguments)) == (0, f"Wrote {page}, {text}, {data}\n", "")
    first = page.read_bytes(), text.read_bytes(), data.read_bytes()
    assert b"<title>Old and new</title>" in first[0]
    assert f"llama2vec report {sources[0]} {sources[1]} --output".encode() in first[0]
    code, out, err = astuple(command_line("report", *arguments))
    assert (code, out) == (2, "")
    assert err == f"llama2vec: {page} already exists; choose another path or --overwrite\n"
    assert command_line("report", *arguments, "--overwrite").code == 0
    assert (page.read_bytes(), text.read_bytes(), data.read_bytes()) == first


def test_a_mistake_is_one_line_and_leaves_nothing_behind(
    command_line: CommandLine, evaluation: Writer, tmp_path: Path
) -> None:
    one = evaluation("a", make_report("old", OLD, corpus_fingerprint="f00d"))
    two = evaluation("b", make_report("new", NEW, corpus_fingerprint="beef"))
    (tmp_path / "foreign").mkdir()
    page, text = tmp_path / "out" / "page.html", tmp_path / "out" / "page.md"
    scores = one / "tiny-test.json"
    for arguments, problem in (
        ([], "there is nothing to report"),
        ([one, two], "different corpora"),
        ([tmp_path / "foreign"], "foreign holds no result to report"),
        ([one, tmp_path / "gone"], "gone does not exist"),
        ([one, "--baseline", "odl"], "--baseline odl: no such system in these results; there are: old"),
        ([one, "--json", page], "is named for two outputs"),
        ([one, "--json", scores, "--overwrite"], "is a source of this report"),
    ):
        code, out, err = astuple(command_line("report", *arguments, "--output", page, "--markdown", text))
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert problem in err
        assert not page.parent.exists()
    assert b"llama2vec-evaluation" in scores.read_bytes()
