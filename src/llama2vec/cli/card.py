"""``llama2vec card``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llama2vec.errors import OutputExistsError
from llama2vec.terminal import counted, display


def card_command(
    model: Annotated[Path, typer.Argument(help="Folder of a saved encoder.")],
    scores: Annotated[
        list[Path] | None, typer.Option("--scores", help="Result file of `evaluate`; repeatable.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Hub id for the code in the card; default: the folder's name.")
    ] = None,
) -> None:
    """Rewrite the model card of a saved encoder, with scores."""
    from llama2vec.score.results import read_result

    reports = [read_result(path).report for path in scores or []]
    from llama2vec.model.publish.origin import CARD_FILE
    from llama2vec.model.publish.publishing import CARD_MARK, write_model_card

    if not write_model_card(model, name=name or "", scores=reports):
        raise OutputExistsError(
            f"{model / CARD_FILE} has an author; move the file away, or add this line to hand it over: {CARD_MARK}"
        )
    display(f"Wrote {model / CARD_FILE} with {counted(len(reports), 'result')}")
