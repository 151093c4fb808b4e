"""Metrics of runs (ir_measures, which wraps trec_eval) and of sentence similarities (correlations through scipy)."""

from __future__ import annotations

import difflib
import logging
import math
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, Literal

import numpy as np

from llama2vec.data.settings import Ties
from llama2vec.data.tasks.ties import tied_queries
from llama2vec.errors import EvaluationError, MissingDependencyError
from llama2vec.records import Qrels, Report, Run
from llama2vec.score.significance import (
    FloatVector,
    Numbers,
    bootstrap_interval,
    percentiles,
    resampled_rows,
    scipy_stats,
)
from llama2vec.terminal import counted

logger = logging.getLogger(__name__)

DEFAULT_METRICS = ("nDCG@10", "MRR@10", "R@100")
"""Ranking quality with grades, rank of the first relevant passage, and share of the relevant passages found."""
Correlation = Literal["spearman", "pearson"]
_MOST_PASSAGES = 10_000_000  # more than trec_eval tells apart in single precision


def evaluate_run(run: Run, qrels: Qrels, *, task: str = "", metrics: Iterable[str] = DEFAULT_METRICS) -> Report:
    """Score a run against judgments.

    Every judged query counts: one that the run lacks scores 0 (``trec_eval -c``); queries without judgments are
    skipped. Values are trec_eval's own (nDCG divides the gains themselves by log2(rank + 1); any gain of 1 or more is
    relevant for MRR and recall), and MS MARCO's for MRR with a cutoff. A negative gain counts as 0.

    Passages are ranked by :meth:`Run.ranking`, equal scores by ascending passage id. trec_eval alone would rank ties
    by descending id and tie what agrees in single precision, so it receives strictly falling whole numbers made from
    our ranking. For trec_eval's own order, give it :func:`llama2vec.data.tasks.ties.kept_apart` of the run.

    >>> report = evaluate_run(Run({"q": {"a": 2.0, "b": 1.0}}), {"q": {"b": 1}}, metrics=["MRR@10"])
    >>> report.metrics
    {'MRR@10': 0.5}

    Args:
        run: What a system returned.
        qrels: Relevance judgments; gains may be graded or negative.
        task: Name for the report.
        metrics: Names as ir_measures writes them: ``nDCG@10``, ``MRR@10`` (or ``RR@10``), ``R@100``, ``AP`` …

    Returns:
        Means, 95 % bootstrap intervals over the queries, and per-query values (queries sorted by id).

    Raises:
        EvaluationError: No judged query is in the run, an unknown metric, a score that is not finite, an id that is not
            a string, or a gain that is not a whole number.
    """
    ir_measures = _ir_measures()
    _check_given(run, qrels, metrics)
    parsed = {name: _parse_metric(name) for name in metrics}
    if not parsed:
        raise EvaluationError("no metric to compute; name at least one, such as nDCG@10")
    # Negative gains make trec_eval read outside its arrays (pytrec_eval-terrier 0.5.11 ends in a segmentation fault).
    judged = {
        query_id: {
            passage_id: max(_whole(gain, query_id, passage_id), 0) for passage_id, gain in qrels[query_id].items()
        }
        for query_id in sorted(qrels)
        if qrels[query_id]
    }
    common = judged.keys() & run.results.keys()
    if not common:
        counts = f"{counted(len(run.results), 'query', 'queries')} in the run and {len(judged):,} judged"
        raise EvaluationError(f"run {run.tag!r}: {counts} have no id in common; do they belong to one task?")
    answers = {query_id: _falling_scores(run, query_id) for query_id in sorted(common) if run.results[query_id]}
    values = _query_values(set(parsed.values()), judged, answers)
    per_query = {name: {query_id: values[metric, query_id] for query_id in judged} for name, metric in parsed.items()}
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


def _check_given(run: Run, qrels: Qrels, metrics: Iterable[str]) -> None:
    """Raise an EvaluationError unless a run and judgments lead from ids of queries to ids of passages."""
    if isinstance(metrics, str):
        raise EvaluationError(f"metrics is one string; put it into a list: [{metrics!r}]")
    if not isinstance(run, Run):
        raise EvaluationError(f"run is of type {type(run).__name__}; give a Run, as Retriever.search returns it")
    for name, table in ((f"run {run.tag!r}", run.results), ("the judgments", qrels)):
        if not isinstance(table, Mapping):
            raise EvaluationError(f"{name}: of type {type(table).__name__}; give {{query id: {{passage id: value}}}}")
        for query_id, row in table.items():
            if not isinstance(row, Mapping):
                problem = f"query {query_id!r} has a value of type {type(row).__name__}"
                raise EvaluationError(f"{name}: {problem}; give {{passage id: value}}")
            stranger = next((one for one in (query_id, *row) if not isinstance(one, str)), None)
            if stranger is not None:
                problem = f"the id {stranger!r} is of type {type(stranger).__name__}"
                raise EvaluationError(f"{name}: {problem}; ids are strings: write {str(stranger)!r}")


def _whole(gain: Any, query_id: str, passage_id: str) -> int:
    """Return a gain as the whole number that it must be."""
    try:
        if (whole := int(gain)) == gain:
            return whole
    except (TypeError, ValueError, OverflowError):
        pass
    problem = f"passage {passage_id!r} has the gain {gain!r} for query {query_id!r}"
    raise EvaluationError(f"the judgments: {problem}; a gain is a whole number")


def check_returned(tag: str, returned: Set[str], unknown: Set[str], corpus: str) -> None:
    """Warn of the passages that a run returned and the corpus lacks; an EvaluationError where most are ``unknown``."""
    lacks = len(returned & unknown)
    problem = f"run '{tag}': {corpus} lacks {lacks:,} of {counted(len(returned), 'passage')} that it returned"
    if 2 * lacks > len(returned):
        raise EvaluationError(f"{problem}; give the corpus that was searched")
    if lacks:
        logger.warning("%s", problem)


def warn_of_missing_queries(run: str, lacks: int, asked: str) -> None:
    """Warn of judged queries that a run lacks, of those that ``asked`` describes."""
    problem = f"run {run!r} lacks {lacks:,} of {asked}, and scores 0 for each"
    logger.warning("%s; is it of another split, or was it cut off?", problem)


def warn_of_short_run(run: str, lengths: Sequence[int], metrics: Iterable[str], passages: int, task: str = "") -> None:
    """Warn of a run that ends above the rank down to which a metric reads.

    Args:
        run: Its name.
        lengths: How many passages it has for each query that it answers.
        metrics: What is computed of it.
        passages: Number of passages in the corpus, or of those known.
        task: What it answers, to begin the line.
    """
    longest = max(lengths, default=0)
    # A whole corpus may lack the query's own passage; where few queries have this many, the search found no more.
    deeper = [name for name, cutoff in metric_cutoffs(metrics).items() if longest < min(cutoff, passages - 1)]
    if deeper and 2 * lengths.count(longest) > len(lengths):
        logger.warning(
            "%srun '%s' ends after %s per query, and what it lacks counts as not found in %s; give a longer run",
            f"{task}: " if task else "", run, counted(longest, "passage"), ", ".join(deeper),
        )  # fmt: skip


def metric_cutoffs(metrics: Iterable[str]) -> dict[str, int]:
    """Return the rank down to which each metric reads a ranking, 0 = its end.

    Raises:
        EvaluationError: A metric that cannot be computed; names the nearest one.
    """
    _ir_measures()
    return {name: _parse_metric(name).params.get("cutoff", 0) for name in metrics}


def _ir_measures() -> Any:
    try:
        import ir_measures
    except ImportError:
        raise MissingDependencyError("metrics need ir-measures; pip install 'llama2vec[evaluate]'") from None
    return ir_measures


def _provider() -> Any:
    """Return the implementations that run in this process; others start Perl or Java and need numeric query ids."""
    ir_measures = _ir_measures()
    return ir_measures.providers.FallbackProvider([ir_measures.pytrec_eval, ir_measures.msmarco, ir_measures.judged])


def _parse_metric(name: str) -> Any:
    """Return the ir_measures object of a name; checks the cutoff, which trec_eval does not."""
    ir_measures = _ir_measures()
    try:
        metric = ir_measures.parse_measure(name)
        metric.validate_params()
        if not _provider().supports(metric) or not 1 <= metric.params.get("cutoff", 1) <= _MOST_PASSAGES:
            raise ValueError(name)
    except (NameError, ValueError, TypeError, SyntaxError, AssertionError):
        word = name.partition("@")[0]
        known = {alias.lower(): known.NAME for alias, known in ir_measures.measures.registry.items()}
        near = [] if word in known.values() else difflib.get_close_matches(word.lower(), known, n=1)
        hint = f" (did you mean {known[near[0]]}?)" if near else ""
        raise EvaluationError(f"no metric '{name}'{hint}; write it like nDCG@10, MRR@10, R@100 or AP") from None
    return metric


def tell_of_ties(run: Run, queries: Iterable[str], metrics: Iterable[str], ties: Ties, task: str = "") -> None:
    """Say for how many queries equal scores stand above a metric's cutoff, and in which order they are taken."""
    asked = list(queries)
    found = {name: tied_queries(run, asked, ties, cutoff) for name, cutoff in metric_cutoffs(metrics).items()}
    if any(found.values()):
        counts = ", ".join(f"{name} {number:,}" for name, number in found.items())
        logger.info(
            "%srun '%s' has equal scores above the cutoffs (of %s: %s); they are ranked by %s",
            f"{task}: " if task else "", run.tag, counted(len(asked), "query", "queries"), counts,
            "descending id, as in trec_eval" if ties == "trec_eval" else "ascending id",
        )  # fmt: skip


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
    metrics: set[Any], judged: dict[str, dict[str, int]], answers: dict[str, dict[str, float]]
) -> dict[tuple[Any, str], float]:
    """Return (metric, query id) → value for every judged query."""
    values = {(metric, query_id): float(metric.DEFAULT) for metric in metrics for query_id in judged}
    if answers:
        for found in _provider().iter_calc(list(metrics), judged, answers):
            values[found.measure, found.query_id] = float(found.value)
    return values


def score_similarities(similarities: Numbers, gold: Numbers) -> dict[str, float]:
    """Return the ``spearman`` and ``pearson`` correlation of similarities with gold scores, each in [-1, 1].

    >>> score_similarities([0.1, 0.4, 0.9], [0.0, 2.0, 5.0])["spearman"]
    1.0

    Raises:
        EvaluationError: Different lengths, fewer than two pairs, a value that is not finite, or constant input, for
            which correlation is undefined.
    """
    stats = scipy_stats()
    similar, wanted = _paired_scores(similarities, gold)
    spearman, pearson = stats.spearmanr(similar, wanted).statistic, stats.pearsonr(similar, wanted).statistic
    return {"spearman": float(spearman), "pearson": float(pearson)}


def correlation_interval(
    correlation: Correlation,
    similarities: Numbers,
    gold: Numbers,
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the (low, high) percentile bootstrap interval of a correlation.

    Pairs are resampled with replacement; constant samples have no correlation and are skipped.
    """
    similar, wanted = _paired_scores(similarities, gold)
    stats = scipy_stats()
    correlate = stats.spearmanr if correlation == "spearman" else stats.pearsonr
    found = [
        float(correlate(similar[rows], wanted[rows]).statistic)
        for block in resampled_rows(len(similar), resamples, seed)
        for rows in block
        if np.ptp(similar[rows]) > 0 and np.ptp(wanted[rows]) > 0
    ]
    if not found:
        raise EvaluationError(f"no sample of {counted(len(similar), 'pair')} has a correlation; give more pairs")
    return percentiles(np.array(found))


def _paired_scores(similarities: Numbers, gold: Numbers) -> tuple[FloatVector, FloatVector]:
    """Return both as [N] float64; check that they pair up, are finite and vary."""
    pair = np.asarray(similarities, dtype=np.float64), np.asarray(gold, dtype=np.float64)
    if pair[0].ndim != 1 or pair[0].shape != pair[1].shape:
        shapes = f"{list(pair[0].shape)} similarities and {list(pair[1].shape)} gold scores"
        raise EvaluationError(f"{shapes} do not pair up; give one of each for every pair")
    if len(pair[0]) < 2:
        raise EvaluationError(f"{counted(len(pair[0]), 'pair')} cannot correlate; give two pairs or more")
    remedies = {"similarities": "check the encoder", "gold scores": "give scores that differ"}
    for (name, remedy), values in zip(remedies.items(), pair, strict=True):
        broken = np.flatnonzero(~np.isfinite(values))
        if len(broken):
            raise EvaluationError(f"the {name} hold {values[broken[0]]} at pair {broken[0] + 1}; give finite numbers")
        if np.ptp(values) == 0:
            raise EvaluationError(f"the {name} are all {values[0]:g}, so no correlation is defined; {remedy}")
    return pair
