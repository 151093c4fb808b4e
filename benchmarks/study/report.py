"""The study as one HTML page: scores of every set, the questions tested and drawn query by query, learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from benchmarks.study.cells import Arm
from benchmarks.study.comparisons import Answer, Scores, answers, arm_name, questions, seeded
from benchmarks.study.protocol import ALL_PAIRS
from benchmarks.study.sets import MEASURE
from benchmarks.study.tables import labels_points, main_arms, steps_points
from llama2vec.files import file_sha256
from llama2vec.records import Report
from llama2vec.score.comparison import Comparison
from llama2vec.score.report.content import Content, build_content
from llama2vec.score.report.page import render_page
from llama2vec.score.report.plots import CurveFamily
from llama2vec.score.report.sources import ComparedRuns, Evaluation, SourceFile, Sources
from llama2vec.score.significance import bootstrap_interval


def study_page(scores: Scores, path: Path, command: str) -> str:
    """Return the page of a budget.

    Args:
        scores: The scores of the budget.
        path: The results file.
        command: The command that makes the page.

    Raises:
        MissingDependencyError: jinja2, matplotlib or scipy is not installed.
    """
    return render_page(study_content(scores, path, command))


def study_content(scores: Scores, path: Path, command: str) -> Content:
    """Return the content of the page.

    A score is the mean over an arm's seeds. Two trained arms are tested only once both have the same seeds, so every
    test on the page uses the same trainings as the scores.
    """
    protocol = scores.protocol
    sources = Sources(files=[SourceFile(str(path), "study", file_sha256(path))])
    for task in protocol.sets.retrieval:
        reports = [_report(scores, arm, task) for arm in main_arms(scores) if scores.seeds(arm, task)]
        sources.evaluations.extend(Evaluation(report, str(path)) for report in reports)
        sources.comparisons.extend(_compared(scores, [task], task, str(path)))
    together = f"mean of {len(protocol.sets.average)} sets"
    sources.comparisons.extend(_compared(scores, protocol.sets.average, together, str(path)))
    sources.curves.extend(_curves(scores))
    return build_content(sources, title=f"The study of adaptation, budget {protocol.name}", command=command)


def _report(scores: Scores, arm: Arm, task: str) -> Report:
    seeds = scores.seeds(arm, task)
    report = scores.report(arm, task, seeds)
    values = list(report.per_query[MEASURE].values())
    wanted = len(seeded(arm, scores.protocol))
    settings = {**scores.results["sets"][scores.protocol.name][task], "seeds": f"{len(seeds)} of {wanted}"}
    settings = {key: value for key, value in settings.items() if key != "queries"}
    return replace(
        report, metrics={MEASURE: fmean(values)}, intervals={MEASURE: bootstrap_interval(values)}, settings=settings
    )


def _compared(scores: Scores, sets: Sequence[str], name: str, where: str) -> list[ComparedRuns]:
    """Return the tests of every question whose arms have the same seeds on all of these sets."""
    asked = [
        question
        for question in questions(scores.protocol)
        if _same_seeds(scores, [arm for arm in (question.first, question.second) if arm.is_trained], sets)
    ]
    found = [answer for answer in answers(scores, asked, sets) if answer.test is not None]
    if not found:
        return []
    arms = dict.fromkeys(arm for answer in found for arm in (answer.question.first, answer.question.second))
    by_set = {task: {arm: scores.report(arm, task, scores.seeds(arm, task)) for arm in arms} for task in sets}
    per_query = {
        arm_name(arm, scores.protocol): {
            f"{task}:{query}" if len(sets) > 1 else query: value
            for task in sets
            for query, value in by_set[task][arm].per_query[MEASURE].items()
        }
        for arm in arms
    }
    means = {
        task: {
            arm_name(arm, scores.protocol): fmean(by_set[task][arm].per_query[MEASURE].values()) for arm in arms
        }
        for task in sets
    }  # fmt: skip
    systems = {system: fmean(means[task][system] for task in sets) for system in per_query}
    settings = {"seeds": {_name(answer, scores): len(answer.seeds) or 1 for answer in found}}
    if len(sets) > 1:
        settings |= {"tasks": means}
    tests = [answer.test for answer in found if answer.test is not None]
    return [ComparedRuns(Comparison(name, MEASURE, systems, per_query, tests, settings), where)]


def _name(answer: Answer, scores: Scores) -> str:
    arms = (answer.question.first, answer.question.second)
    return " → ".join(f"({arm_name(arm, scores.protocol)})" for arm in arms)


def _same_seeds(scores: Scores, trained: Sequence[Arm], sets: Sequence[str]) -> bool:
    return len({tuple(scores.seeds(arm, task)) for arm in trained for task in sets}) <= 1


def _curves(scores: Scores) -> list[CurveFamily]:
    """Return the learning curves that have two points or more."""
    axis = f"{MEASURE}, mean of {len(scores.protocol.sets.average)} sets"
    stage = scores.protocol.finetuning
    read = stage.steps * stage.batch_size
    found = []
    for title, across, curves in (
        ("Over adaptation steps", "adaptation steps", steps_points(scores)),
        ("Over labeled pairs", f"labeled pairs (training reads {read:,} at most)", labels_points(scores)),
    ):
        lines = {}
        for name, arms in curves.items():
            points = {
                float(stage.pairs_per_source * len(stage.sources) if point == ALL_PAIRS else point): fmean(values)
                for point, arm in arms.items()
                if (values := list(scores.average(arm).values()))
            }
            if len(points) > 1:
                lines[name] = points
        if lines:
            found.append(CurveFamily(title, axis, across, lines))
    return found
