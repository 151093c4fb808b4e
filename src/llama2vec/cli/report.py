"""``llama2vec report``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from llama2vec.errors import ConfigError, OutputExistsError


def report_command(
    sources: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders of evaluate, adapt, finetune or run; JSON files of evaluate or compare."),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML page.")] = Path("report.html"),
    markdown: Annotated[Path | None, typer.Option(help="Write the same in Markdown to this file.")] = None,
    json: Annotated[Path | None, typer.Option(help="Write the same as JSON to this file.")] = None,
    title: Annotated[str, typer.Option(help="Title of the page; default: the tasks' names.")] = "",
    baseline: Annotated[
        str, typer.Option(help="System that the others are tested against; default: the first of each task.")
    ] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the outputs.")] = False,
) -> None:
    """Put scores, tests and training curves on one page that needs no network."""
    from llama2vec.files import write_output
    from llama2vec.score.report.content import build_content, content_to_json
    from llama2vec.score.report.markdown import render_markdown
    from llama2vec.score.report.page import render_page
    from llama2vec.score.report.sources import read_sources
    from llama2vec.score.results import write_json

    outputs = [path for path in (output, markdown, json) if path]
    _check_outputs(outputs, overwrite)
    found = read_sources(sources or [])
    read = {Path(file.path).resolve() for file in found.files}
    for path in outputs:
        if path.resolve() in read:
            raise ConfigError(f"{path} is a source of this report; write to another file")
    command = {"--output": output, "--markdown": markdown, "--json": json, "--title": title, "--baseline": baseline}
    options = [word for name, value in command.items() if value for word in (name, str(value))]
    content = build_content(
        found,
        title=title,
        command=shlex.join(["llama2vec", "report", *map(str, sources or []), *options]),
        baseline=baseline,
    )
    # Render everything before writing anything; the page appears last.
    page = render_page(content)
    if markdown:
        write_output(markdown, render_markdown(content), overwrite=overwrite)
    if json:
        write_json(json, content_to_json(content), overwrite=overwrite)
    write_output(output, page, overwrite=overwrite)
    typer.echo(f"Wrote {', '.join(str(path) for path in [output, *outputs[1:]])}")


def _check_outputs(outputs: list[Path], overwrite: bool) -> None:
    twice = next((path for place, path in enumerate(outputs) if path in outputs[:place]), None)
    if twice:
        raise ConfigError(f"{twice} is named for two outputs; name a file for each")
    for path in outputs:
        if path.is_dir() or (path.exists() and not overwrite):
            raise OutputExistsError(f"{path} already exists; choose another path or --overwrite")
