"""Answers to a question on the terminal, as JSON, or opened in an editor."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from llama2vec.errors import ConfigError
from llama2vec.terminal import counted, display, printable, printable_line, unprotected

if TYPE_CHECKING:
    from llama2vec.retrieve.search.fusion import Mode
    from llama2vec.retrieve.search.hits import Hit
    from llama2vec.retrieve.search.retriever import Retriever

_INDENT, _WIDEST, _MOST_MORE = 5, 100, 5
_LINE_OPTIONS = {
    "+{line} {file}": (
        "vi", "vim", "nvim", "gvim", "view", "nano", "emacs", "emacsclient", "micro", "kak", "joe", "gedit",
    ),
    "--goto {file}:{line}": ("code", "codium", "cursor"),
    "{file}:{line}": ("subl", "hx", "helix", "zed"),
}  # fmt: skip
"""How editors open a file at a line; others get the file alone."""


@dataclass(frozen=True)
class Answers:
    """An index, how to search it, and how its answers are shown."""

    retriever: Retriever
    mode: Mode | None = None  # None = the best that the index has when the question is asked
    where: str | None = None
    group: bool = True

    def to(self, question: str, depth: int, *, as_json: bool = False, opens: bool = False) -> None:
        """Print the answers to one question, and open the best one if asked to."""
        from llama2vec.retrieve.search.hits import corpus_folder

        mode = self.mode_now()
        hits = self.retriever.hits(question, mode, depth, where=self.where, group=self.group)
        folder = corpus_folder(self.retriever.store)
        if as_json:
            print_json(hits, question, mode, self.where)
        elif hits:
            show(hits, question, folder)
        else:
            display(f"Nothing found: {self.why_nothing('the question', [question])}.")
        if opens:
            open_best(hits, question, folder)

    def open(self, question: str) -> None:
        """Open the best answer to a question, without printing any."""
        from llama2vec.retrieve.search.hits import corpus_folder

        hits = self.retriever.hits(question, self.mode_now(), 1, where=self.where, group=self.group)
        open_best(hits, question, corpus_folder(self.retriever.store))

    def why_nothing(self, asked: str, questions: Sequence[str]) -> str:
        """Say why a search for some questions found nothing; ``asked`` = what an answer calls them."""
        if self.where is not None and not len(self.retriever.fields.rows(self.where)):
            return "no passage matches the filter"
        if not self.retriever.on_present(lambda opened: opened.bm25 is None or any(map(opened.bm25.reads, questions))):
            return f"BM25 finds no word to compare in {asked}: single letters and stop words do not count"
        among = " that matches the filter" if self.where is not None else ""
        return f"no passage{among} shares a word with {asked}"

    def mode_now(self) -> Mode:
        """Return how the next question is searched: vectors that came since the index was opened count."""
        if self.mode is not None:
            return self.mode
        self.retriever.check_unchanged()
        return self.retriever.default_mode

    def to_each(self, depth: int) -> None:
        """Read questions until an empty line or the end of input."""
        mode = self.mode_now()
        if isinstance(sys.stdin, TextIOWrapper):
            # Otherwise bytes that are not UTF-8 end the command, and take the other questions of a pipe with them.
            sys.stdin.reconfigure(errors="surrogateescape")
        if sys.stdin.isatty():
            count = counted(len(self.retriever.store), "passage")
            print(f"{count}. Ask a question; an empty line quits.", file=sys.stderr)
        while True:
            try:
                question = _read_line().strip()
            except EOFError:
                break
            if not question:
                break
            try:
                question.encode()
            except UnicodeEncodeError:
                print(f"{question!a} is not valid UTF-8; check the terminal's encoding", file=sys.stderr)
                continue
            before, mode = mode, self.mode_now()
            if mode != before:
                print(f"The index has changed; answers now come from {mode} search.", file=sys.stderr)
            self.to(question, depth)


def _read_line() -> str:
    """Read a line of stdin; on a terminal the arrow keys edit it and bring back earlier ones."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        with suppress(ImportError):  # some builds of Python lack it
            import readline  # noqa: F401
        # Given here, so that editing does not overwrite it.
        return input("? ")
    print("? ", end="", flush=True, file=sys.stderr)
    return input()


def check_question(question: str | None, call: str, *, as_json: bool, opens: bool) -> None:
    """Raise a ConfigError for an empty question, or where an option needs one; ``call`` = the command and its index."""
    if question is not None and not question.strip():
        raise ConfigError("the question is empty; write one, or leave it out for an interactive prompt")
    if (as_json or opens) and question is None:
        raise ConfigError(f'{"--json" if as_json else "--open"} needs a question: llama2vec {call} "…"')


def show(hits: Sequence[Hit], question: str, folder: Path | None) -> None:
    """Print hits: rank, score, place and title, the part that shows why, and further places of the document."""
    from rich.text import Text

    from llama2vec.retrieve.search.hits import evidence, excerpt, location

    console = _console()
    for hit in hits:
        place = printable_line(location(hit.passage, question))
        head = Text().append(f"{hit.rank:>3}. ", style="bold").append(f"{hit.score:.3f}  ", style="dim")
        head.append(place, style=_linked(hit, folder))
        if hit.passage.title:
            head.append("  ").append(printable_line(hit.passage.title), style="bold")
        shown = printable(excerpt(hit, question))
        part = Text(shown)
        for begin, end in evidence(shown, question, hit.passage.text):
            part.stylize("bold yellow", begin, end)
        others = also(hit)
        console.print(head, soft_wrap=True)
        for text in [part, Text(others, style="dim")] if others else [part]:
            for line in text.wrap(console, console.width - _INDENT) if console.is_terminal else [text]:
                console.print(Text(_INDENT * " ").append_text(line), soft_wrap=True)


def also(hit: Hit) -> str:
    """Return where else in its document a hit's question is answered, best first: ``also: lines 7, 30``."""
    from llama2vec.retrieve.search.hits import spot

    here = spot(hit.passage)
    places = [place for place in dict.fromkeys(spot(other.passage) for other in hit.more) if place != here]
    shown = places[:_MOST_MORE]
    if len(shown) > 1 and all(place.startswith("line ") for place in shown):
        shown = [shown[0].replace("line", "lines"), *(place.removeprefix("line ") for place in shown[1:])]
    more = ", …" if len(places) > _MOST_MORE else ""
    return printable_line(f"also: {', '.join(shown)}{more}") if shown else ""


def print_json(hits: Sequence[Hit], question: str, mode: str, where: str | None) -> None:
    """Print one JSON object: the question, how it was searched, and the hits."""
    from llama2vec.retrieve.search.hits import as_row

    answer: dict[str, Any] = {"query": question, "mode": mode, "where": where}
    answer["hits"] = [as_row(hit, question) for hit in hits]
    typer.echo(json.dumps(answer, indent=2))


def open_best(hits: Sequence[Hit], question: str, folder: Path | None) -> None:
    """Open the file of the best hit at its line, in $VISUAL or $EDITOR, or with the desktop's own program.

    Raises:
        ConfigError: Nothing was found, the file is gone, or it cannot be opened.
    """
    from llama2vec.retrieve.search.hits import best_line, document_file, location

    if not hits:
        raise ConfigError("--open: there is nothing to open, because nothing was found")
    passage = hits[0].passage
    where = location(passage, question)
    if passage.place is None:
        raise ConfigError(f"--open: {where} is a row of a corpus, not a file of its own")
    if folder is None:
        raise ConfigError(f"--open: the folder that {where} was read from is not there; open the file by hand")
    file = document_file(folder, passage.place.document)
    if file is None:
        raise ConfigError(f"--open: {passage.place.document} is no longer in {folder}; bring the index up to date")
    line = best_line(passage, question) if passage.place.page is None else None
    command = _opener(str(file.resolve()), line)
    if command is None:
        raise ConfigError(f"--open: set $EDITOR to a program that opens {file} (found at {where})")
    try:
        finished = subprocess.run(command, check=False)  # noqa: S603 - the user's own editor
    except OSError as error:
        raise ConfigError(f"--open: {command[0]} cannot be started ({error.strerror}); set $EDITOR") from None
    if finished.returncode:
        raise ConfigError(f"--open: {command[0]} ended with status {finished.returncode} on {file}")
    if passage.place.page is not None:
        display(f"Opened {printable_line(str(file))}; the passage is on page {passage.place.page}.")


def _opener(file: str, line: int | None) -> list[str] | None:
    """Return the command that opens a file: an editor for text, else what the desktop uses for it."""
    variable = "VISUAL" if os.environ.get("VISUAL") else "EDITOR"
    try:
        editor = shlex.split(os.environ.get(variable) or "")
    except ValueError as error:
        raise ConfigError(f"--open: ${variable} is not a valid command ({error}): {os.environ[variable]}") from None
    if editor and line is not None:
        name = Path(editor[0]).stem
        form = next((form for form, editors in _LINE_OPTIONS.items() if name in editors), "{file}")
        return [*editor, *(part.format(file=file, line=line) for part in form.split())]
    desktop = next((found for name in ("xdg-open", "open") if (found := shutil.which(name))), None)
    return [desktop, file] if desktop else [*editor, file] if editor else None


def _console() -> Any:
    """Return a console for the answers, which escapes nothing: every text must be :func:`printable` already."""
    from rich.console import Console

    stream = unprotected(sys.stdout)
    if not stream.isatty():
        return Console(file=sys.stdout, width=10_000, color_system=None)
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def _linked(hit: Hit, folder: Path | None) -> str:
    """Return the style of a hit's place; where the terminal can do that, a click on it opens the file."""
    from llama2vec.retrieve.search.hits import document_file

    place = hit.passage.place
    file = document_file(folder, place.document) if folder and place else None
    return f"cyan link {file.as_uri()}" if file else "cyan"
