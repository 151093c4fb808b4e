"""``llama2vec read``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llama2vec.cli.options import (
    CorpusSettings,
    Prompts,
    Strict,
    check_prompts,
    model_spec,
    print_reading,
    set_option,
)
from llama2vec.cli.settings_options import lists_settings
from llama2vec.config import load_config
from llama2vec.data.corpus.passages import read_passages
from llama2vec.data.corpus.reading import write_read_passages
from llama2vec.data.documents.folder import ReadingReport
from llama2vec.terminal import ProgressReporter, counted, display


@lists_settings(CorpusSettings)
def read_command(
    source: Annotated[str, typer.Argument(help="Folder of documents, one document, or any other corpus.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="JSONL file for the passages.")],
    model: Annotated[
        str | None,
        typer.Option(help="Measure passages in tokens of this model, as encode does; default: in words."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after this many passages.")] = None,
    strict: Strict = False,
    prompts: Prompts = None,
    sets: Annotated[list[str] | None, set_option("reading.text_field=body or passages.tokens=128")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an older file of passages.")] = False,
) -> None:
    """Read documents into a corpus of passages, and show what could not be read."""
    settings = load_config(CorpusSettings, None, [*(sets or ()), *(["reading.strict=true"] if strict else [])])
    from llama2vec.model.tokens import corpus_splitter

    check_prompts(prompts, has_model=bool(model))
    spec = model_spec(model, prompts) if model else None
    splitter = corpus_splitter(source, spec, settings.passages, settings.reading)
    report = ReadingReport()
    passages = read_passages(source, limit=limit, splitter=splitter, settings=settings.reading, report=report)
    with ProgressReporter("reading", "passage") as progress:
        progress.start(None)
        read = progress.counted(passages)
        count = write_read_passages(read, output, source, settings.reading, report, overwrite=overwrite)
    measure = "" if splitter is None else f" of at most {splitter.tokens} {'tokens' if model else 'words'}"
    display(f"Wrote {counted(count, 'passage')}{measure} to {output}")
    print_reading(report)
