"""``llama2vec remove``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llama2vec.terminal import counted, display


def remove_command(
    index: Annotated[Path, typer.Argument(help="Index that `sync` made.")],
    ids: Annotated[list[str], typer.Argument(help="Paths of documents, or ids of passages, as search shows them.")],
) -> None:
    """Remove documents or passages from an index; they stay removed until their file changes."""
    from llama2vec.retrieve.syncing.library import Library

    removed = Library(index).remove(ids)
    if not removed:
        display(f"{index}: already removed; nothing to do")
        return
    display(f"Removed {counted(removed, 'passage')} from {index}")
