"""``llama2vec search``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llama2vec.cli.options import Device, Dtype, load_encoder
from llama2vec.errors import ConfigError

if TYPE_CHECKING:
    from llama2vec.model.encoder import Encoder
    from llama2vec.retrieve.index import Index
    from llama2vec.retrieve.search import Hit


def search_command(
    index: Annotated[Path, typer.Argument(help="Index that `index` wrote, or a vector store.")],
    question: Annotated[str | None, typer.Argument(help="Left out = ask at a prompt.")] = None,
    queries: Annotated[str | None, typer.Option(help="File of queries (JSONL, TSV or BEIR folder).")] = None,
    run: Annotated[Path | None, typer.Option(help="TREC run to write for --queries.")] = None,
    model: Annotated[str | None, typer.Option(help="Encoder; left out = the one the store was made with.")] = None,
    depth: Annotated[
        int | None, typer.Option(min=1, help="Passages per query: 5 for a question, 1000 for a run.")
    ] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option(help="Replace the run file.")] = False,
) -> None:
    """Search an index: one question, a prompt, or a file of queries to a TREC run."""
    if bool(queries) != bool(run):
        raise ConfigError("--queries and --run belong together: the queries to ask and the TREC run to write")
    if run and run.exists() and not overwrite:
        raise ConfigError(f"{run}: is there already; pass --overwrite to replace it")
    from llama2vec.retrieve.index import open_index

    opened = open_index(index)
    source = opened.store.source
    sets = source.get("sets")
    encoder = load_encoder(
        model or str(source["model"]), dtype, device,
        str(source["prompts"]) if source.get("prompts") and not model else None,
        [str(value) for value in sets] if isinstance(sets, list) and not model else None,
    )  # fmt: skip
    if queries and run:
        _write_run(opened, encoder, queries, run, depth or 1000, overwrite)
    elif question:
        _answer(opened, encoder, question, depth or 5)
    else:
        _ask(opened, encoder, depth or 5)


def _write_run(index: Index, encoder: Encoder, queries: str, run: Path, depth: int, overwrite: bool) -> None:
    from llama2vec.data.corpus import read_queries
    from llama2vec.data.trec import write_run
    from llama2vec.retrieve.search import search

    asked = read_queries(queries)
    write_run(search(index, encoder, asked, depth=depth), run, overwrite=overwrite)
    typer.echo(f"Searched {len(asked):,} queries to depth {depth:,}: {run}")


def _ask(index: Index, encoder: Encoder, depth: int) -> None:
    """Read questions until an empty line or the end of input."""
    if sys.stdin.isatty():
        print(f"{len(index.store):,} passages. Ask; an empty line ends.", file=sys.stderr)
    while True:
        try:
            print("? ", end="", flush=True, file=sys.stderr)
            question = input().strip()
        except EOFError:
            break
        if not question:
            break
        _answer(index, encoder, question, depth)


def _answer(index: Index, encoder: Encoder, question: str, depth: int) -> None:
    from llama2vec.retrieve.search import top_hits

    hits = top_hits(index, encoder, question, depth)
    typer.echo("\n".join(format_hit(hit, question) for hit in hits))


def format_hit(hit: Hit, question: str) -> str:
    """Return one result as two or three lines: rank, score, id, title; then the telling part of the text."""
    from llama2vec.retrieve.search import snippet

    head = f"{hit.rank:>3}. {hit.score:.3f}  {hit.passage.id}"
    if hit.passage.title:
        head += f"  {hit.passage.title}"
    return f"{head}\n     {snippet(hit.passage.text, question)}"
