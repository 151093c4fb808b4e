"""``llama2vec read``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llama2vec.cli.options import (
    Prompts,
    Split,
    model_spec,
    passage_settings,
    print_reading,
    reading_settings,
)
from llama2vec.cli.settings_options import settings_option
from llama2vec.data.corpus import read_passages
from llama2vec.data.folder import ReadingReport
from llama2vec.data.reading import write_read_passages
from llama2vec.data.settings import ReadingSettings
from llama2vec.terminal import ProgressReporter


def read_command(
    source: Annotated[str, typer.Argument(help="Folder of documents, or one of them; or any other corpus.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSONL file for the passages.")],
    model: Annotated[
        str | None, typer.Option(help="Model whose tokens measure the passages, as encode would; default: words.")
    ] = None,
    split: Split = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help="How documents are read, such as reading.text_field=body; repeatable."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail if a file is skipped or only partly read.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many passages.")] = None,
    prompts: Prompts = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace such a file.")] = False,
    list_settings: Annotated[bool, settings_option(ReadingSettings, "reading.")] = False,
) -> None:
    """Read documents into a corpus of passages, and show what could not be read."""
    # Here, where nothing else can be set, the keys are also known without ``reading.``
    given = [one if one.lstrip().startswith("reading.") else f"reading.{one.lstrip()}" for one in sets or ()]
    settings, _ = reading_settings([*given, *(["reading.strict=true"] if strict else [])])
    from llama2vec.model.tokens import corpus_splitter

    spec = model_spec(model, prompts) if model else None
    splitter = corpus_splitter(source, spec, passage_settings(split), settings)
    report = ReadingReport()
    passages = read_passages(source, limit=limit, splitter=splitter, settings=settings, report=report)
    with ProgressReporter("reading", "passages") as progress:
        progress.start(None)
        counted = progress.counted(passages)
        count = write_read_passages(counted, output, source, settings, report, overwrite=overwrite)
    measure = "" if splitter is None else f" of at most {splitter.tokens} {'tokens' if model else 'words'}"
    typer.echo(f"Wrote {count:,} passage{'s' if count != 1 else ''}{measure} to {output}")
    print_reading(report)
