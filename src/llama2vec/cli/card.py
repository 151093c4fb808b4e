"""``llama2vec card``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from llama2vec.errors import DataError, OutputExistsError


def card_command(
    model: Annotated[Path, typer.Argument(help="Folder of a saved encoder.")],
    scores: Annotated[
        list[Path] | None, typer.Option("--scores", help="JSON report that `evaluate` wrote; several are allowed.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What stands in the code: a hub id; left out = the folder's name.")
    ] = None,
) -> None:
    """Write the model card of a saved encoder again, with its scores."""
    reports = [_read_report(path) for path in scores or []]
    from llama2vec.model.publish.model_card import CARD_MARK, write_model_card
    from llama2vec.model.publish.origin import CARD_FILE

    if not write_model_card(model, name=name or "", scores=reports):
        raise OutputExistsError(
            f"{model / CARD_FILE} was written or taken over by somebody; move it away, or add the line {CARD_MARK}"
        )
    typer.echo(f"Wrote {model / CARD_FILE} with {len(reports)} reports")


def _read_report(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as a report ({error}); give the JSON that `evaluate` wrote") from None
    if not isinstance(report, dict) or not ("systems" in report or "metrics" in report):
        raise DataError(f"{path}: holds no scores; give the JSON that `evaluate` wrote")
    return report
