"""``llama2vec report``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from llama2vec.files import FileKind, check_new, write_output
from llama2vec.terminal import display

_PAGE = FileKind("a page of `llama2vec report`", rb'<!DOCTYPE html>.*<meta name="generator" content="llama2vec ')


def report_command(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders of evaluate, adapt, finetune or run; JSON files of evaluate or compare."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="HTML page to write.")] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Title of the page; default: the tasks' names.")] = "",
    baseline: Annotated[
        str, typer.Option(help="System to test the others against; default: the first of each task.")
    ] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an older page.")] = False,
) -> None:
    """Write scores, tests and training curves to one self-contained HTML page."""
    from llama2vec.score.report.content import build_content
    from llama2vec.score.report.page import render_page
    from llama2vec.score.report.sources import read_sources

    found = read_sources(sources or [])
    check_new(output, overwrite=overwrite, inputs=[file.path for file in found.files], kind=_PAGE)
    named = {"--output": output, "--title": title, "--baseline": baseline}
    options = [word for name, value in named.items() if value for word in (name, str(value))]
    command = shlex.join(["llama2vec", "report", *map(str, sources or []), *options])
    page = render_page(build_content(found, title=title, command=command, baseline=baseline))
    write_output(output, page, _PAGE, overwrite=overwrite)
    display(f"Wrote {output}")
