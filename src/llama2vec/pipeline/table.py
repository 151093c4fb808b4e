"""Tables for the terminal: the plan of a run, and its scores."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from llama2vec.pipeline.estimates import RunEstimate
from llama2vec.pipeline.plan import RunPlan, scored_tasks, systems
from llama2vec.pipeline.record import REPORT, Decision, RunRecord, decide_all
from llama2vec.score.report.text import system_tables
from llama2vec.score.results import read_result
from llama2vec.score.tasks import find_task

_WORDS = {"replace": "run again (needs --overwrite)", "follow": "run"}


def plan_table(plan: RunPlan, estimate: RunEstimate, first: str = "", last: str = "") -> Table:
    """Return a row per stage: inputs, output, action and reason, estimated memory and time."""
    selected = plan.between(first, last)
    decisions: Mapping[str, Decision] = decide_all(plan, RunRecord.open(plan.output), selected)
    table = Table(title=Text(f"Plan for {plan.output}"))
    for column in ("Stage", "reads", "writes", "action", "why"):
        table.add_column(column, overflow="fold")
    for column in ("peak memory", "time"):
        table.add_column(column, justify="right", no_wrap=True)
    seconds, most = 0.0, 0.0
    for stage in selected:
        decision, found = decisions[stage.name], estimate.stages[stage.name]
        cells = ["–", "–"]
        if decision.works:
            seconds, most = seconds + found.seconds, max(most, found.memory_bytes)
            cells = [_memory(found.memory_bytes), _time(found.seconds)]
        reads = "\n".join(dict.fromkeys(one.where for one in stage.inputs))
        action = _WORDS.get(decision.action, decision.action)
        table.add_row(*(Text(cell) for cell in (stage.name, reads, stage.folder, action, decision.why, *cells)))
    table.add_section()
    table.add_row("all", "", "", "", "estimates; see below", _memory(most), _time(seconds))
    return table


def _memory(count: float) -> str:
    return f"~ {count / 2**30:.1f} GiB" if count >= 2**30 / 10 else f"~ {max(1, count / 2**20):.0f} MiB"


def _time(seconds: float) -> str:
    """Return a rough duration.

    >>> _time(42), _time(600), _time(9000), _time(900_000)
    ('~ 42 s', '~ 10 min', '~ 2.5 h', '~ 10.4 d')
    """
    if seconds < 120:
        return f"~ {max(seconds, 1):.0f} s"
    if seconds < 7200:
        return f"~ {seconds / 60:.0f} min"
    return f"~ {seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"~ {seconds / 86400:.1f} d"


def score_tables(plan: RunPlan) -> list[Table]:
    """Return a table per task of a finished evaluation, with a row per system; empty if there is none."""
    stage, config = next((stage for stage in plan.stages if stage.kind == "evaluate"), None), plan.config.evaluate
    if stage is None or config is None or not (plan.folder(stage) / REPORT).is_file():
        return []
    files = [
        plan.folder(stage) / system / f"{find_task(task).stem}.json"
        for system in systems(plan.config)
        for task in scored_tasks(config, system)
    ]
    return system_tables([read_result(file).report for file in files])
