"""``llama2vec run``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llama2vec.cli.dry_run import DryRun, memory_text
from llama2vec.cli.options import as_overrides, report, set_option, with_options
from llama2vec.cli.seeds import Seeds, losses_of, read_seeds, run_seeds, seed_folder
from llama2vec.cli.settings_options import lists_settings
from llama2vec.config import load_config
from llama2vec.errors import ConfigError
from llama2vec.manifest import MANIFEST_FILE
from llama2vec.pipeline.settings import UNLABELED, RunConfig
from llama2vec.tables import Table
from llama2vec.terminal import display, duration, is_first_process

if TYPE_CHECKING:
    from llama2vec.pipeline.plan import RunPlan
    from llama2vec.records import Report

_SEEDS = ("pairs.seed", "adapt.optimizer.seed", "mine.seed", "finetune.optimizer.seed")
_TEXTS = ("action", "why", "reads", "writes")
_ACTIONS = {"replace": "run again (needs --overwrite)", "follow": "run"}


@lists_settings(RunConfig)
def run_command(
    recipe: Annotated[
        Path | None, typer.Argument(help="TOML recipe, or the name of a shipped one; omit it for a run without labels.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for all results.")] = Path("runs/run"),
    corpus: Annotated[
        str | None, typer.Option(help="Corpus or folder of documents; replaces the recipe's corpus.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="LLM or encoder to start from; replaces model.name.")] = None,
    sets: Annotated[list[str] | None, set_option("adapt.optimizer.steps=64, or STAGE=false to skip a stage")] = None,
    first: Annotated[str, typer.Option("--from", help="Start at this stage; earlier ones must be finished.")] = "",
    last: Annotated[str, typer.Option("--until", help="Stop after this stage.")] = "",
    dry_run: DryRun = False,
    flops: Annotated[
        float | None,
        typer.Option(
            min=1,
            help="For --dry-run: FLOP/s of large matrix products; default: measured here on two layers of the model.",
        ),
    ] = None,
    seeds: Seeds = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Redo stages whose settings or inputs have changed.")
    ] = False,
) -> None:
    """Run all stages of a recipe: pairs, adapt, mine, finetune, encode, index, evaluate.

    Finished stages are skipped. After an interruption, rerun the same command to resume.
    """
    if flops is not None and not dry_run:
        raise ConfigError("--flops is for --dry-run alone; add that or leave it out")
    changes = _changes(recipe, corpus, model, sets)
    runs = _runs(recipe, changes, output, seeds)
    if dry_run:
        _show_plans(list(runs.values()), first, last, flops)
    elif None in runs:
        _run(*runs[None], first, last, overwrite=overwrite)
    else:
        numbers = [seed for seed in runs if seed is not None]

        def train(seed: int, _: Path) -> dict[str, float]:
            return _run(*runs[seed], first, last, overwrite=overwrite)

        def again(seed: int, _: Path) -> dict[str, float] | None:
            return _finished_figures(*_seed_run(recipe, changes, output, seed), first, last)

        run_seeds("run", numbers, output, train, again)


def _runs(
    recipe: Path | None, changes: list[str], output: Path, seeds: str | None
) -> dict[int | None, tuple[RunConfig, Path]]:
    """Return the recipe and the folder of each seed, or of the one run without seeds, whose key is None."""
    if seeds is None:
        return {None: (load_config(RunConfig, recipe, changes), output)}
    return {seed: _seed_run(recipe, changes, output, seed) for seed in read_seeds(seeds, changes)}


def _seed_run(recipe: Path | None, changes: list[str], output: Path, seed: int) -> tuple[RunConfig, Path]:
    """Return the recipe and the folder of one seed; in a tracker, its trainings are named after both."""
    config, folder = load_config(RunConfig, recipe, changes), seed_folder(output, seed)
    drawn = [f"{key}={seed}" for key in _SEEDS if getattr(config, key.partition(".")[0]) is not None]
    stages = {"adapt": config.adapt, "finetune": config.finetune}
    unnamed = [stage for stage, section in stages.items() if section is not None and not section.tracking.name]
    names = as_overrides(
        {f"{stage}.tracking.name": f"{output.resolve().name}-seed-{seed}-{stage}" for stage in unnamed}
    )
    return load_config(RunConfig, recipe, [*changes, *names, *drawn]), folder


def _run(config: RunConfig, output: Path, first: str, last: str, *, overwrite: bool) -> dict[str, float]:
    """Run the stages, say what they made, and return the scores and losses by name."""
    from llama2vec.data.corpus.passages import read_once
    from llama2vec.pipeline.execution import execute
    from llama2vec.pipeline.plan import plan_run

    with read_once():
        plan = plan_run(config, output)
        result = execute(plan, overwrite=overwrite, first=first, last=last)
    done = [name for name, action in result.actions.items() if action != "skip"]
    _show_scores(plan)
    ran = f"Ran {', '.join(done)} in {result.seconds:,.0f} s"
    report(f"{ran if done else 'All stages were already done'}: {output}\n{_places(plan, output)}")
    _show_reading(plan)
    return _figures(plan)


def _finished_figures(config: RunConfig, output: Path, first: str, last: str) -> dict[str, float] | None:
    """Return the figures of a run if all its stages are finished with these settings; None otherwise."""
    from llama2vec.data.corpus.passages import read_once
    from llama2vec.pipeline.plan import plan_run
    from llama2vec.pipeline.record import RunRecord, decide_all

    with read_once():
        plan = plan_run(config, output)
        decisions = decide_all(plan, RunRecord.open(output), plan.between(first, last))
    return _figures(plan) if all(one.action == "skip" for one in decisions.values()) else None


def _figures(plan: RunPlan) -> dict[str, float]:
    """Return the scores of all systems, and the last losses of both training stages, as far as they are made."""
    found = {
        f"{one.system}, {one.task}: {metric}": value for one in _scores(plan) for metric, value in one.metrics.items()
    }
    for stage in plan.stages:
        if stage.kind in ("adapt", "finetune") and (plan.folder(stage) / MANIFEST_FILE).is_file():
            losses = losses_of(plan.folder(stage))
            found |= {f"{stage.name}: {name}": value for name, value in losses.items()}
    return found


def _changes(recipe: Path | None, corpus: str | None, model: str | None, sets: list[str] | None) -> list[str]:
    if recipe is None and not corpus:
        raise ConfigError("give a recipe, or --corpus for the default run over a corpus without labels")
    changes = list(UNLABELED) if recipe is None else []
    return [*changes, *with_options(sets, ("--corpus", "corpus", corpus), ("--model", "model.name", model))]


def _show_plans(runs: Sequence[tuple[RunConfig, Path]], first: str, last: str, flops: float | None) -> None:
    """Show the plan of one run; of several, which differ in their seeds alone, that of the first and the whole time."""
    from llama2vec.data.corpus.passages import read_once
    from llama2vec.pipeline.execution import check_output
    from llama2vec.pipeline.plan import plan_run

    with read_once():
        plans = [plan_run(config, output) for config, output in runs]
        for plan in plans:
            check_output(plan)
        seconds = _show_plan(plans[0], first, last, flops)
    if len(plans) > 1:
        others = ", ".join(str(plan.output) for plan in plans[1:])
        whole = duration(seconds * len(plans))
        display(f"The same for {others}: about {whole} for all {len(plans)} seeds.")


def _show_plan(plan: RunPlan, first: str, last: str, flops: float | None) -> float:
    """Print a row per stage: inputs, output, action and reason, estimated memory and time; return all seconds."""
    from llama2vec.pipeline.estimates import estimate_run
    from llama2vec.pipeline.record import RunRecord, decide_all

    selected = plan.between(first, last)
    estimate = estimate_run(plan, selected, flops)
    decisions = decide_all(plan, RunRecord.open(plan.output), selected)
    rows = [["Stage", "peak memory", "time", *_TEXTS]]
    seconds, most = 0.0, 0.0
    for stage in selected:
        decision, found = decisions[stage.name], estimate.stages[stage.name]
        cells = ["–", "–"]
        if decision.action != "skip":
            seconds, most = seconds + found.seconds, max(most, found.memory_bytes)
            cells = [memory_text(found.memory_bytes), f"~ {duration(found.seconds)}"]
        reads = ", ".join(dict.fromkeys(one.where for one in stage.inputs))
        action = _ACTIONS.get(decision.action, decision.action)
        rows.append([stage.name, *cells, action, decision.why, reads, stage.folder])
    rows.append(["all", memory_text(most), f"~ {duration(seconds)}", "", "", "", ""])
    display(
        Table(rows, f"Plan for {plan.output}", "memory and time are estimates", texts=_TEXTS),
        *(f"- {line}" for line in estimate.assumptions),
    )
    return seconds


def _show_scores(plan: RunPlan) -> None:
    """Print a table per task of a finished evaluation."""
    from llama2vec.score.report.text import system_tables

    if is_first_process() and (reports := _scores(plan)):
        display(*system_tables(reports))


def _scores(plan: RunPlan) -> list[Report]:
    """Return the scores of a finished evaluation; none where there is none."""
    from llama2vec.pipeline.record import REPORT
    from llama2vec.pipeline.systems import scored_tasks, systems
    from llama2vec.score.results import read_result
    from llama2vec.score.tasks import find_task

    stage, config = next((stage for stage in plan.stages if stage.kind == "evaluate"), None), plan.config.evaluate
    if stage is None or config is None or not (plan.folder(stage) / REPORT).is_file():
        return []
    files = [
        plan.folder(stage) / system / f"{find_task(task).stem}.json"
        for system in systems(plan.config)
        for task in scored_tasks(config, system)
    ]
    return [read_result(file).report for file in files]


def _show_reading(plan: RunPlan) -> None:
    """Print, for each corpus of documents, what was read of it and what not."""
    from llama2vec.pipeline.record import READING_FILE

    for stage in plan.stages:
        file = plan.folder(stage) / READING_FILE
        if stage.kind == "read" and file.is_file():
            report(file.read_text(encoding="utf-8").rstrip())


def _places(plan: RunPlan, output: Path) -> str:
    what = {
        "read": "the passages of the documents, and what could not be read",
        "adapt": "the adapted encoder, its log and loss curve",
        "pairs": "queries with positives",
        "mine": "the same with hard negatives, and reports on what was dropped",
        "finetune": "the fine-tuned encoder, its log and curves",
        "encode": "the corpus as vectors",
        "index": "search it: llama2vec search {}",
        "evaluate": "report.md; scores, runs and values per query of each system",
    }
    folders = {output / stage.folder: what[stage.kind] for stage in plan.stages}
    return "\n".join(f"  {folder!s:<32}  {text.format(folder)}" for folder, text in folders.items() if folder.exists())
