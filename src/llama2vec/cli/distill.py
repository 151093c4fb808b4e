"""``llama2vec distill``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from llama2vec.cli.options import (
    ENCODER_KEYS,
    OF_ENCODER,
    READING_KEYS,
    Device,
    Dtype,
    Prompts,
    already_done,
    load_encoder,
    reading_settings,
    set_option,
)
from llama2vec.cli.settings_options import lists_settings
from llama2vec.errors import ConfigError
from llama2vec.files import check_inputs
from llama2vec.terminal import counted, display

logger = logging.getLogger(__name__)


@lists_settings(READING_KEYS, *ENCODER_KEYS)
def distill_command(
    model: Annotated[str, typer.Argument(help="Saved encoder, or any causal LM.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the table.")],
    queries: Annotated[
        list[str] | None,
        typer.Option(help="Sample queries: JSONL, labeled examples too, TSV or BEIR folder; repeatable."),
    ] = None,
    corpus: Annotated[
        list[str] | None,
        typer.Option(help="Corpus; its titles and short phrases become sample queries; repeatable."),
    ] = None,
    count: Annotated[int, typer.Option(min=20, help="Use at most this many sample queries.")] = 20_000,
    seed: Annotated[int, typer.Option(min=0, help="Seed for sampling and holding out queries.")] = 0,
    prompts: Prompts = None,
    sets: Annotated[list[str] | None, set_option(keys=f"reading.KEY, {OF_ENCODER}")] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a table.")] = False,
) -> None:
    """Fit a table that encodes queries without the model; use it with `search INDEX --model TABLE`."""
    if not queries and not corpus:
        raise ConfigError("a table is fitted to sample queries; give --queries, or --corpus to draw them from")
    check_inputs(output, [model, *(queries or ()), *(corpus or ())])
    from llama2vec.data.corpus.passages import read_passages, read_queries
    from llama2vec.retrieve.search.query_table import QUERY_TABLE, save_query_table
    from llama2vec.retrieve.search.table_fitting import sample_spans

    reading, encoder_sets = reading_settings(sets)
    is_done = already_done(QUERY_TABLE, output, overwrite=overwrite)
    texts = [query.text for source in queries or () for query in read_queries(source, reading, labeled=True)]
    if len(texts) > count:
        logger.warning("--count %d leaves out the last %s", count, counted(len(texts) - count, "query", "queries"))
        texts = texts[:count]

    def passages() -> Iterator[tuple[str, str]]:
        return ((row.title, row.text) for source in corpus or () for row in read_passages(source, settings=reading))

    if len(texts) < count:
        texts += sample_spans(passages, count - len(texts), seed)
    elif corpus:
        logger.warning("--queries fill --count %d, so that none is drawn from --corpus; raise --count", count)
    encoder = load_encoder(model, dtype, device, prompts, encoder_sets)
    table = save_query_table(encoder, texts, output, seed=seed, overwrite=overwrite)
    megabytes = table.rows.nbytes / 1e6
    what = f"{output} is already done" if is_done else f"Saved {output}"
    tokens, fitted = counted(len(table.rows) - 1, "token"), counted(table.facts["texts"], "query", "queries")
    display(
        f"{what} [{megabytes:.0f} MB, {tokens}, D={table.dimension}], fitted to {fitted}; on held-out "
        f"queries, the mean cosine to the model's vectors is {table.facts['cosine']:.3f}"
    )
