"""``llama2vec run``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llama2vec.cli.options import is_first_process, report
from llama2vec.config import load_config
from llama2vec.errors import ConfigError
from llama2vec.pipeline.settings import RunConfig

if TYPE_CHECKING:
    from rich.console import Console

    from llama2vec.pipeline.plan import RunPlan


def run_command(
    recipe: Annotated[
        Path | None, typer.Argument(help="TOML recipe; left out = the default for a corpus without labels.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for everything that is made.")] = Path(
        "runs/run"
    ),
    corpus: Annotated[str | None, typer.Option(help="Passages; overrides corpus.")] = None,
    model: Annotated[str | None, typer.Option(help="Raw LLM or encoder; overrides model.name.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="stage.section.key=value, stage=true or false; may be repeated.")
    ] = None,
    first: Annotated[str, typer.Option("--from", help="First stage to run; those in front must be finished.")] = "",
    last: Annotated[str, typer.Option("--until", help="Last stage to run.")] = "",
    dry_run: Annotated[
        bool, typer.Option(help="Print the plan with an estimate of memory and time; write nothing.")
    ] = False,
    flops: Annotated[
        float | None, typer.Option(min=1, help="Multiply-adds x 2 a second for the estimate; left out = measured here.")
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Make stages with other settings or inputs again.")] = False,
) -> None:
    """Run all stages of a recipe: pairs, adapt, mine, finetune, encode, index, evaluate."""
    config = load_config(RunConfig, recipe, _changes(recipe, corpus, model, overrides or []))
    from llama2vec.pipeline.plan import plan_run

    plan = plan_run(config, output)
    if dry_run:
        _show_plan(plan, first, last, flops)
        return
    from llama2vec.pipeline.execution import execute

    result = execute(plan, overwrite=overwrite, first=first, last=last)
    done = [name for name, action in result.actions.items() if action != "skip"]
    _show_scores(plan)
    what = f"Ran {', '.join(done)}" if done else "Every stage is finished already"
    report(f"{what} in {result.seconds:,.0f} s: {output}\n{_places(plan, output)}")


def _changes(recipe: Path | None, corpus: str | None, model: str | None, overrides: list[str]) -> list[str]:
    from llama2vec.pipeline.defaults import UNLABELED

    if recipe is None and not corpus:
        raise ConfigError("give a recipe, or --corpus for the default run over a corpus without labels")
    changes = list(UNLABELED) if recipe is None else []
    changes += [f"corpus={json.dumps(corpus, ensure_ascii=False)}"] if corpus else []
    changes += [f"model.name={json.dumps(model, ensure_ascii=False)}"] if model else []
    return changes + overrides


def _show_plan(plan: RunPlan, first: str, last: str, flops: float | None) -> None:
    from llama2vec.pipeline.estimates import estimate_run
    from llama2vec.pipeline.table import plan_table

    found = estimate_run(plan, plan.between(first, last), flops)
    console = _console(140)
    console.print(plan_table(plan, found, first, last))
    for line in found.assumptions:
        console.print(f"- {line}", markup=False, highlight=False)


def _show_scores(plan: RunPlan) -> None:
    """Print the tables of a finished evaluation."""
    from llama2vec.pipeline.table import score_tables

    for table in score_tables(plan) if is_first_process() else []:
        _console(120).print(table)


def _console(width: int) -> Console:
    from rich.console import Console

    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else width)


def _places(plan: RunPlan, output: Path) -> str:
    what = {
        "adapt": "the adapted encoder, its log and loss curve",
        "pairs": "queries with positives",
        "mine": "the same with hard negatives, and reports of what was left out",
        "finetune": "the fine-tuned encoder, its log and curves",
        "encode": "the corpus as vectors",
        "index": "ask it: llama2vec search {}",
        "evaluate": "scores: report.md, summary.json, values per query",
    }
    rows = []
    for stage in plan.stages:
        folder = output / stage.folder
        if folder.exists():
            rows.append(f"  {folder!s:<32} {what[stage.kind].format(folder)}")
    return "\n".join(rows)
