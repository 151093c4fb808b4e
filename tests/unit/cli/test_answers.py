"""Answers on the terminal, as JSON, and opened in an editor."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from synced_folder import HashEncoder, sync, write

from llama2vec.cli.answers import Answers, also, open_best, print_json, show
from llama2vec.errors import ConfigError
from llama2vec.records import Passage, Place
from llama2vec.retrieve.search.hits import Hit
from llama2vec.retrieve.search.retriever import Retriever
from llama2vec.terminal import PlainStream

QUESTION = "Which wing delays the stall?"
GUIDE = Passage(
    "guide.md#2", "A fence on the wing\ndelayed the stall.", "Guide › Wings", Place("guide.md", 10, 48, 7, 8),
    {"year": 2020},
)  # fmt: skip
MANUAL = Passage("manual.pdf#9", "The stall.", "", Place("manual.pdf", 900, 910, page=12))


def hits(*passages: Passage) -> list[Hit]:
    return [Hit(rank, 1 / rank, passage, row=rank) for rank, passage in enumerate(passages, start=1)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "guide.md").write_text("text")
    (tmp_path / "manual.pdf").write_text("text")
    return tmp_path


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs that write down what they were called with; nothing else can be started."""
    found = tmp_path / "programs"
    found.mkdir()
    monkeypatch.setenv("PATH", str(found))
    for name in ("EDITOR", "VISUAL"):
        monkeypatch.delenv(name, raising=False)
    return found


def program(folder: Path, name: str, status: int = 0) -> Path:
    path = folder / name
    path.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {folder / "called"}\nexit {status}\n')
    path.chmod(0o755)
    return path


def test_an_answer_names_place_title_snippet_and_the_other_places(capsys: pytest.CaptureFixture[str]) -> None:
    more = tuple(hits(*(Passage(f"x#{page}", "t", place=Place("x", 0, 1, page=page)) for page in (4, 9, 4))))
    plain = Passage("rivers/1", "The Amazon.", "Amazon")
    show([*hits(GUIDE, MANUAL, plain), Hit(4, 0.1, Passage("bare", "x"), more=more)], QUESTION, None)
    assert capsys.readouterr().out.splitlines() == [
        "  1. 1.000  guide.md:8  Guide › Wings",
        "     A fence on the wing delayed the stall.",
        "  2. 0.500  manual.pdf:12",
        "     The stall.",
        "  3. 0.333  rivers/1  Amazon",
        "     The Amazon.",
        "  4. 0.100  bare",
        "     x",
        "     also: p. 4, p. 9",
    ]


def test_a_name_with_a_line_break_stays_on_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    name = "a\n  2. 0.900  b\t.md"
    more = tuple(hits(Passage(f"{name}#2", "t")))
    show([Hit(1, 1.0, Passage(f"{name}#1", "x", "On\ntwo lines", Place(name, 0, 1, 7, 7)), more=more)], QUESTION, None)
    assert capsys.readouterr().out.splitlines() == [
        r"  1. 1.000  a\n  2. 0.900  b\t.md:7  On\ntwo lines", "     x", r"     also: a\n  2. 0.900  b\t.md#2",
    ]  # fmt: skip


def test_a_passage_inside_a_line_begins_with_an_ellipsis(capsys: pytest.CaptureFixture[str]) -> None:
    show([Hit(1, 1.0, MANUAL, continues=True), Hit(2, 0.5, MANUAL)], QUESTION, None)
    assert [line.strip() for line in capsys.readouterr().out.splitlines()[1::2]] == ["…The stall.", "The stall."]


def test_many_other_places_are_counted() -> None:
    more = tuple(hits(*(Passage(f"x#{page}", "t", place=Place("x", 0, 1, page=page)) for page in range(1, 10))))
    assert also(Hit(1, 1.0, MANUAL, more=more)) == "also: p. 1, p. 2, p. 3, p. 4, p. 5, …"


def test_other_lines_are_listed_and_the_same_page_is_not_repeated() -> None:
    lines = [Passage(f"x#{line}", "t", place=Place("x", 0, 1, line, line)) for line in (30, 7, 12)]
    assert also(Hit(1, 1.0, lines[0], more=tuple(hits(*lines[1:])))) == "also: lines 7, 12"
    assert also(Hit(1, 1.0, lines[0], more=tuple(hits(lines[1])))) == "also: line 7"
    assert also(Hit(1, 1.0, MANUAL, more=tuple(hits(MANUAL)))) == ""


def test_a_terminal_gets_emphasis_and_links_and_no_control_sequence_of_a_passage(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", PlainStream(screen))
    evil = Passage("\x1b[2J", "The \x1b]0;owned\x07 wing [bold]:smile:", "\x1b[31mred", Place("guide.md", 0, 1, 7, 7))
    show(hits(evil), QUESTION, folder)
    written = screen.getvalue()
    assert "\x1b[2J" not in written
    assert "\x1b[31mred" not in written
    assert "\x1b]0;" not in written
    assert (folder / "guide.md").as_uri() in written
    plain = re.sub(r"\x1b\]8;[^\x1b]*\x1b\\|\x1b\[[0-9;]*m", "", written)
    assert "guide.md:7  \\x1b[31mred" in plain
    assert "The \\x1b]0;owned\\x07 wing [bold]:smile:" in plain
    assert re.search(r"\x1b\[1;33mwing\x1b\[0m", written)


def test_json_holds_everything_about_each_hit(capsys: pytest.CaptureFixture[str]) -> None:
    print_json([Hit(1, 0.5, GUIDE, 3, tuple(hits(MANUAL)))], QUESTION, "bm25", "year > 1")
    answer = json.loads(capsys.readouterr().out)
    assert answer == {
        "query": QUESTION, "mode": "bm25", "where": "year > 1",
        "hits": [{
            "rank": 1, "id": "guide.md#2", "score": 0.5, "title": "Guide › Wings",
            "text": "A fence on the wing\ndelayed the stall.", "snippet": "A fence on the wing delayed the stall.",
            "words": ["wing", "delays", "stall"], "continues": False,
            "location": "guide.md:8", "spot": "line 7", "row": 3, "fields": {"year": 2020},
            "place": {
                "document": "guide.md", "begin": 10, "end": 48, "first_line": 7, "last_line": 8, "page": None,
            },
            "more": [{"id": "manual.pdf#9", "score": 1.0, "title": "", "location": "manual.pdf:12", "spot": "p. 12",
                      "row": 1}],
        }],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("editor", "arguments"),
    [
        ("vim", ["+8", "FILE"]),
        ("nano -w", ["-w", "+8", "FILE"]),
        ("code", ["--goto", "FILE:8"]),
        ("hx", ["FILE:8"]),
        ("unknown", ["FILE"]),
    ],
)
def test_an_editor_opens_the_line(
    folder: Path, programs: Path, monkeypatch: pytest.MonkeyPatch, editor: str, arguments: list[str]
) -> None:
    program(programs, editor.split()[0])
    monkeypatch.setenv("EDITOR", editor)
    open_best(hits(GUIDE), "stall", folder)
    expected = [argument.replace("FILE", str((folder / "guide.md").resolve())) for argument in arguments]
    assert (programs / "called").read_text().splitlines() == expected


def test_a_page_is_opened_by_the_desktop_and_its_number_is_told(
    folder: Path, programs: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    program(programs, "xdg-open")
    monkeypatch.setenv("EDITOR", "vim")
    open_best(hits(MANUAL), "stall", folder)
    assert (programs / "called").read_text().splitlines() == [str((folder / "manual.pdf").resolve())]
    assert capsys.readouterr().out == f"Opened {folder / 'manual.pdf'}; the passage is on page 12.\n"


def test_what_cannot_be_opened_is_one_line(folder: Path, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def problem(*passages: Passage, there: Path | None = folder) -> str:
        with pytest.raises(ConfigError) as caught:
            open_best(hits(*passages), "stall", there)
        return str(caught.value)

    assert problem() == "--open: there is nothing to open, because nothing was found"
    assert "guide.md:8 was read from is not there" in problem(GUIDE, there=None)
    assert problem(Passage("r1", "x")) == "--open: r1 is a row of a corpus, not a file of its own"
    assert "gone.md is no longer in" in problem(Passage("g", "x", place=Place("gone.md", 0, 1)))
    assert "../guide.md is no longer in" in problem(Passage("g", "x", place=Place("../guide.md", 0, 1)), there=programs)
    assert "set $EDITOR to a program that opens" in problem(GUIDE)
    monkeypatch.setenv("EDITOR", "absent")
    assert "--open: absent cannot be started (No such file or directory); set $EDITOR" in problem(GUIDE)
    program(programs, "broken", status=3)
    monkeypatch.setenv("EDITOR", "broken")
    assert "broken ended with status 3" in problem(GUIDE)
    monkeypatch.setenv("VISUAL", "vim 'x")
    assert problem(GUIDE) == "--open: $VISUAL is not a valid command (No closing quotation): vim 'x"


def test_questions_after_vectors_have_come_are_answered_by_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, index = write(tmp_path / "docs", {"a.txt": "soft wool", "b.txt": "a river"}), tmp_path / "index"
    sync(folder, index)
    answers = Answers(Retriever.open(index, HashEncoder()))
    asked = iter(["wool", "a river", ""])

    def question() -> str:
        if (text := next(asked)) == "a river":
            sync(folder, index, HashEncoder())
        return text

    monkeypatch.setattr("builtins.input", question)
    answers.to_each(5)
    out, err = capsys.readouterr()
    first, second = out.split("  1. ")[1:]
    assert "a.txt" in first
    assert "b.txt" not in first
    assert "b.txt" in second
    assert "a.txt" in second  # by vectors, every document is found
    assert err.count("answers now come from hybrid search") == 1


def test_a_question_that_is_not_utf8_is_one_line_and_the_next_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, index = write(tmp_path / "docs", {"a.txt": "soft wool", "b.txt": "a river"}), tmp_path / "index"
    sync(folder, index)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\nwool\n"), encoding="utf-8"))
    Answers(Retriever.open(index)).to_each(5)
    out, err = capsys.readouterr()
    assert "'caf\\udce9' is not valid UTF-8; check the terminal's encoding\n" in err
    assert "a.txt" in out


@pytest.mark.parametrize(
    ("question", "why"),
    [
        ("zebra", "no passage shares a word with the question"),
        ("税", "no passage shares a word with the question"),
        ("C", "BM25 finds no word to compare in the question: single letters and stop words do not count"),
        ("is the", "BM25 finds no word to compare in the question: single letters and stop words do not count"),
    ],
)
def test_nothing_is_found_for_the_reason_that_is_told(
    question: str, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sync(write(tmp_path / "docs", {"a.txt": "what C is", "b.txt": "a river"}), tmp_path / "index")
    Answers(Retriever.open(tmp_path / "index", by_words=True), "bm25").to(question, 5)
    found = capsys.readouterr().out
    assert found == f"Nothing found: {why}.\n"


@pytest.mark.skipif(not find_spec("readline"), reason="this Python was built without readline")
def test_the_arrow_keys_edit_a_question_and_bring_back_the_last_one() -> None:
    pty = pytest.importorskip("pty")
    code = """
from llama2vec.cli.answers import _read_line
from llama2vec.terminal import plain_terminal
with plain_terminal():
    for _ in range(2):
        print("read", ascii(_read_line()))
"""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    call = [sys.executable, "-c", code]
    with subprocess.Popen(call, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as child:
        left, delete, up = b"\x1b[D", b"\x1b[3~", b"\x1b[A"
        os.write(ours, b"wool" + 2 * left + delete + b"\n" + up + b"\n")
        assert child.wait(60) == 0
    shown = os.read(ours, 10_000)
    os.close(theirs)
    os.close(ours)
    assert shown.count(b"read 'wol'") == 2
