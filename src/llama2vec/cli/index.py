"""``llama2vec index``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast

import typer


def index_command(
    store: Annotated[Path, typer.Argument(help="Vector store that `encode` wrote.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the index.")],
    kind: Annotated[str, typer.Option(help="exact, faiss-flat, faiss-hnsw or faiss-ivfpq.")] = "exact",
    overwrite: Annotated[bool, typer.Option(help="Replace an index.")] = False,
) -> None:
    """Build an index over a vector store."""
    from llama2vec.retrieve.index import IndexKind, build_index

    index = build_index(store, output, kind=cast(IndexKind, kind), overwrite=overwrite)
    typer.echo(f"Indexed {len(index.store):,} passages [{kind}] to {output}")
