"""Retrieval measures over ir_measures, which wraps trec_eval."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from typing import Any

from llama2vec.errors import EvaluationError, MissingDependencyError
from llama2vec.records import Qrels, Report, Run
from llama2vec.score.significance import bootstrap_interval

DEFAULT_MEASURES = ("nDCG@10", "MRR@10", "R@100")
"""Ranking quality with grades, rank of the first relevant passage, and share of the relevant passages found."""


def evaluate_run(run: Run, qrels: Qrels, *, task: str = "", measures: Iterable[str] = DEFAULT_MEASURES) -> Report:
    """Score a run against judgments.

    Every judged query counts: one that the run lacks scores 0 (``trec_eval -c``); queries without judgments are
    left out. As in trec_eval, nDCG takes the gains as they are and divides them by log2(rank + 1); MRR and recall
    take any gain of 1 or more as relevant; a negative gain counts as 0, judged not relevant. The values are
    trec_eval's own, MRR with a cutoff is MS MARCO's.

    Equal scores: the order scored is :meth:`Run.ranking`, equal scores by ascending passage id. trec_eval alone would
    order them by descending id, and take scores that agree in single precision as equal; so it is given strictly
    falling whole numbers made from our ranking instead, and the same run always scores the same.

    >>> report = evaluate_run(Run({"q": {"a": 2.0, "b": 1.0}}), {"q": {"b": 1}}, measures=["MRR@10"])
    >>> report.metrics
    {'MRR@10': 0.5}

    Args:
        run: What a system returned.
        qrels: Relevance judgments; gains may be graded or negative.
        task: Name for the report.
        measures: Names as ir_measures writes them: ``nDCG@10``, ``MRR@10`` (or ``RR@10``), ``R@100``, ``AP`` …

    Returns:
        Means, 95 % bootstrap intervals over the queries, and per-query values (queries sorted by id) under the
        measures' names as given.

    Raises:
        EvaluationError: No judged query is in the run, an unknown measure, or a score that is not finite.
        MissingDependencyError: ir-measures is not installed.
    """
    try:
        import ir_measures
    except ImportError:
        raise MissingDependencyError("measures need ir-measures; pip install 'llama2vec[evaluate]'") from None
    parsed = {name: _parse_measure(name) for name in measures}
    if not parsed:
        raise EvaluationError("no measure to compute; name at least one, such as nDCG@10")
    # Negative gains make trec_eval read outside its arrays (pytrec_eval-terrier 0.5.11 ends in a segmentation fault).
    judged = {
        query_id: {passage_id: max(gain, 0) for passage_id, gain in qrels[query_id].items()}
        for query_id in sorted(qrels)
        if qrels[query_id]
    }
    common = judged.keys() & run.results.keys()
    if not common:
        counts = f"{len(run.results)} queries in the run and {len(judged)} judged ones"
        raise EvaluationError(f"run {run.tag!r}: {counts} have no id in common; do they belong to one task?")
    answers = {query_id: _falling_scores(run, query_id) for query_id in sorted(common) if run.results[query_id]}
    values = _query_values(set(parsed.values()), judged, answers)
    per_query = {name: {query_id: values[measure, query_id] for query_id in judged} for name, measure in parsed.items()}
    return Report(
        task=task,
        system=run.tag,
        metrics={name: math.fsum(by_query.values()) / len(by_query) for name, by_query in per_query.items()},
        intervals={name: bootstrap_interval(list(by_query.values())) for name, by_query in per_query.items()},
        per_query=per_query,
        settings={
            "ir_measures": ir_measures.__version__,
            "judged_queries": len(judged),
            "unanswered_queries": len(judged) - len(answers),
        },
    )


def check_measures(measures: Iterable[str]) -> None:
    """Make sure that every measure can be computed, before there is anything to compute it on.

    Raises:
        EvaluationError: An unknown measure, with the nearest one.
        MissingDependencyError: ir-measures is not installed.
    """
    try:
        import ir_measures  # noqa: F401
    except ImportError:
        raise MissingDependencyError("measures need ir-measures; pip install 'llama2vec[evaluate]'") from None
    for name in measures:
        _parse_measure(name)


def _provider() -> Any:
    """Return the implementations that run in this process: others start Perl or Java and want numeric query ids."""
    import ir_measures

    return ir_measures.providers.FallbackProvider([ir_measures.pytrec_eval, ir_measures.msmarco, ir_measures.judged])


def _parse_measure(name: str) -> Any:
    """Return the ir_measures object of a name; its cutoff is checked here because trec_eval does not."""
    import ir_measures

    try:
        measure = ir_measures.parse_measure(name)
        measure.validate_params()
        if not _provider().supports(measure) or measure.params.get("cutoff", 1) < 1:
            raise ValueError(name)
    except (NameError, ValueError, TypeError, SyntaxError, AssertionError):
        word = name.partition("@")[0]
        known = {alias.lower(): known.NAME for alias, known in ir_measures.measures.registry.items()}
        near = [] if word in known.values() else difflib.get_close_matches(word.lower(), known, n=1)
        hint = f" (did you mean {known[near[0]]}?)" if near else ""
        raise EvaluationError(f"no measure '{name}'{hint}; write it like nDCG@10, MRR@10, R@100 or AP") from None
    return measure


def _falling_scores(run: Run, query_id: str) -> dict[str, float]:
    """Return scores that fall by 1 from rank to rank; trec_eval's single precision holds them up to 16 million.

    >>> _falling_scores(Run({"q": {"b": 0.5, "a": 0.5, "c": 0.7}}), "q")
    {'c': 3.0, 'a': 2.0, 'b': 1.0}
    """
    broken = [passage_id for passage_id, score in run.results[query_id].items() if not math.isfinite(score)]
    if broken:
        problem = f"passage {broken[0]!r} of query {query_id!r} has the score {run.results[query_id][broken[0]]}"
        raise EvaluationError(f"run {run.tag!r}: {problem}; scores must be finite")
    ranking = run.ranking(query_id)
    return {passage_id: float(len(ranking) - above) for above, (passage_id, _) in enumerate(ranking)}


def _query_values(
    measures: set[Any], judged: dict[str, dict[str, int]], answers: dict[str, dict[str, float]]
) -> dict[tuple[Any, str], float]:
    """Return (measure, query id) → value for every judged query."""
    values = {(measure, query_id): float(measure.DEFAULT) for measure in measures for query_id in judged}
    if answers:
        for metric in _provider().iter_calc(list(measures), judged, answers):
            values[metric.measure, metric.query_id] = float(metric.value)
    return values
