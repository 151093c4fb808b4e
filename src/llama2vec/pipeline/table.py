"""A plan and the scores of a run as tables for the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from llama2vec.pipeline.estimates import RunEstimate
from llama2vec.pipeline.plan import RunPlan
from llama2vec.pipeline.record import SUMMARY, Decision, RunRecord, decide_all
from llama2vec.records import Report
from llama2vec.score.tables import rich_table

_WORDS = {"replace": "run again (needs --overwrite)", "follow": "run"}


def plan_table(plan: RunPlan, estimate: RunEstimate, first: str = "", last: str = "") -> Table:
    """Return the plan: stage, what it reads and writes, what would be done and why, estimated memory and time."""
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
    """Return a table for each task of a finished evaluation, a row for each system; none where there is none."""
    stage = next((stage for stage in plan.stages if stage.kind == "evaluate"), None)
    if stage is None or not (plan.folder(stage) / SUMMARY).is_file():
        return []
    tables = []
    for task in json.loads((plan.folder(stage) / SUMMARY).read_text(encoding="utf-8"))["tasks"]:
        intervals = task["intervals"]
        reports = [Report(task["task"], name, metrics, intervals[name]) for name, metrics in task["systems"].items()]
        tables.append(rich_table(reports))
    return tables
