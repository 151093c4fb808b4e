"""The corpora of tasks, read to their end: which judged passages they lack, and which passages are queries."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from llama2vec.data.corpus.passages import read_passages
from llama2vec.data.settings import ReadingSettings
from llama2vec.data.tasks.beir import BeirTask, check_judged_passages, missing_judged
from llama2vec.data.tasks.trec import check_id
from llama2vec.errors import EvaluationError
from llama2vec.records import Passage, Qrels, Run
from llama2vec.score.tasks import TASKS, Task, TaskData, find_task, naming_places, passed_over, read_task
from llama2vec.terminal import counted

logger = logging.getLogger(__name__)

# Published sets judge a few passages that their corpora lost; a corpus that lacks a larger share is a wrong one.
MOST_LOST = 0.05


def tasks_data(
    names: Iterable[str], root: str | Path, reading: ReadingSettings | None = None, *, check: bool = False
) -> Iterator[TaskData]:
    """Read tasks, the members of averages in their place; ``check`` = read each corpus to its end, too.

    ``reading`` names the fields of queries and passages.
    """
    for name in names:
        for task in [TASKS[member] for member in find_task(name).members] or [find_task(name)]:
            data = read_task(task, root, reading)
            if check:
                warn_of_another_corpus(task, data.source, root)
            if check and data.retrieval:
                check_corpus(task, data, root, reading)
            yield data


@dataclass(frozen=True, slots=True)
class CorpusFacts:
    """What a task's corpus holds."""

    passages: int
    own: Set[str]  # Ids of the queries that it holds as passages, under the same id and with the same text
    lost: int  # Judged passages that it lacks
    unknown: Set[str]  # Ids that were returned and that it lacks


def warn_of_another_corpus(task: Task, source: str, root: str | Path) -> None:
    """Warn where a task is read from another corpus than the tasks that share its folder."""
    if place := passed_over(task, root):
        logger.warning(
            "%s: read from %s, because %s has no qrels/%s.tsv; other tasks read the corpus in %s, which may differ, as "
            "in its titles; add these judgments and their queries there", task.name, source, place, task.split, place,
        )  # fmt: skip


def check_corpus(
    task: Task,
    data: TaskData,
    root: str | Path,
    reading: ReadingSettings | None = None,
    returned: Iterable[str] = (),
) -> CorpusFacts:
    """Read a task's corpus to its end, so that faulty lines and missing passages show before any work.

    ``returned`` are the ids that a run found in it.
    """
    beir = data.retrieval
    assert beir is not None
    for query in beir.queries:
        check_id(query.id, "query", data.source)
    judged = {passage_id for gains in beir.qrels.values() for passage_id in gains}
    asked = {query.id: query.text.strip() for query in beir.queries}
    known, own, unknown = set[str](), set[str](), set(returned)
    total = 0
    with naming_places(task, data.source, root):
        for passage in read_passages(beir.corpus_source, settings=reading):
            check_id(passage.id, "passage", data.source)
            total += 1
            if passage.id in judged:
                known.add(passage.id)
            unknown.discard(passage.id)
            if _is_query(passage, asked):
                own.add(passage.id)
    lost = len(missing_judged(beir.qrels, known))
    if not task.published or lost > MOST_LOST * len(judged):
        check_judged_passages(beir.qrels, known)
    return CorpusFacts(total, own, lost, unknown)


def _is_query(passage: Passage, asked: Mapping[str, str]) -> bool:
    """Tell whether a passage, or its title, is the query of its id; ``asked`` are query ids and stripped texts.

    Where papers are to be found that a paper cites, the query is that paper's title.
    """
    query, title = asked.get(passage.id), passage.title.strip()
    return query in (passage.text.strip(), passage.full_text.strip()) or bool(title and query == title)


def left_out(
    exclude: bool | None, data: BeirTask, qrels: Qrels, runs: Sequence[Run], reading: ReadingSettings | None = None
) -> Set[str]:
    """Return the ids of the queries for which scoring these runs skips the passage of the same id.

    ``exclude`` is as :attr:`Task.exclude_same_id`. The corpus is read only where a run has such a passage and it is
    None.
    """
    found = {query_id for run in runs for query_id, scores in run.results.items() if query_id in scores}
    found = {query_id for query_id in found if qrels.get(query_id, {}).get(query_id, 0) <= 0}
    if exclude is None and found:
        asked = {query.id: query.text.strip() for query in data.queries if query.id in found}
        passages = read_passages(data.corpus_source, settings=reading)
        return {passage.id for passage in passages if _is_query(passage, asked)}
    return found if exclude else set()


def excluded_queries(name: str, data: BeirTask, corpus: CorpusFacts, exclude: bool | None) -> Set[str]:
    """Return the ids of the queries for which the passage of the same id is skipped; say for how many.

    ``exclude`` is as :attr:`Task.exclude_same_id`.

    Raises:
        EvaluationError: Such a passage is judged relevant.
    """
    own = counted(len(corpus.own), "query", "queries")
    excluded = {query.id for query in data.queries} if exclude else corpus.own if exclude is None else set()
    if exclude is None and corpus.own:
        kept = "(exclude_same_id=false keeps it)"
        logger.warning("%s: the passage of the same id is excluded for %s %s", name, own, kept)
    elif not exclude and corpus.own:
        logger.warning("%s: the passage of the same id stays in for %s", name, own)
    found = [one for one, gains in data.qrels.items() if one in excluded and gains.get(one, 0) > 0]
    if found:
        raise EvaluationError(
            f"{name}: the passage {found[0]!r} is judged relevant for the query of the same id, and such passages "
            "are excluded; set exclude_same_id=false, or correct the judgments"
        )
    return excluded


def warn_of_own_passages(task: Task, run: Run, queries: Iterable[str]) -> None:
    """Warn where a run on a BEIR set returns passages of their queries' ids, which BEIR's own evaluator ignores."""
    if not task.name.startswith("beir/"):
        return
    if found := sum(query_id in run.results.get(query_id, {}) for query_id in queries):
        logger.warning(
            "%s: run '%s' returns the passage of the query's own id for %s; it counts here, and BEIR's evaluator "
            "ignores it (as exclude_same_id=true does)", task.name, run.tag, counted(found, "query", "queries"),
        )  # fmt: skip
