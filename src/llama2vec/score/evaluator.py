"""Score one system on any number of tasks into one folder: finished tasks are kept, averages come last."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from llama2vec.artifact import bring_back, discard, owned, sweep_temporary, tidy
from llama2vec.data.text.cutting import TokenSpans
from llama2vec.data.text.words import word_spans
from llama2vec.errors import ConfigError, DataError, EvaluationError, OutputExistsError
from llama2vec.files import check_inputs, remove
from llama2vec.manifest import digest, first_difference, machine, versions
from llama2vec.records import Report, Run
from llama2vec.retrieve.store.reader import VectorStore
from llama2vec.retrieve.store.writer import STORE, warn_of_cut_passages
from llama2vec.score.corpora import check_corpus, excluded_queries, warn_of_another_corpus, warn_of_own_passages
from llama2vec.score.metrics import evaluate_run, tell_of_ties
from llama2vec.score.results import (
    Result,
    query_values_file,
    read_result,
    results_folder,
    with_query_values,
    write_result,
)
from llama2vec.score.settings import ScoringSettings
from llama2vec.score.significance import bootstrap_difference
from llama2vec.score.systems import (
    Searching,
    Stores,
    System,
    check_packages,
    check_run,
    encode_corpus,
    find_tasks,
    returned_passages,
    same_system,
    score_pairs,
    search_task,
    window_facts,
    windows_in,
)
from llama2vec.score.tasks import (
    TASKS,
    Task,
    TaskData,
    TaskScore,
    find_task,
    metrics_and_depth,
    read_task,
    task_places,
)
from llama2vec.score.windows import check_windows_used
from llama2vec.terminal import counted

logger = logging.getLogger(__name__)

_UNFINISHED = ".unfinished"
_DEFAULTS = ScoringSettings()
_OPTIONAL = {"search", "sentence_sides", "reading", "run_sha256", "ties", "encoder", "prompts", "dtype"}
"""Settings that a result holds only where they apply or are not the default."""


def evaluate_tasks(
    system: System,
    names: Sequence[str],
    output: Path,
    settings: ScoringSettings = _DEFAULTS,
    *,
    stores: Stores | None = None,
    overwrite: bool = False,
) -> list[TaskScore]:
    """Score a system on tasks, in order; each is finished on disk before the next one begins.

    Everything is read and checked before the first corpus is encoded. Tasks that an earlier call scored with the same
    system, settings and data are kept unless ``overwrite`` is set; then the new scores replace them all at once. One
    process at a time writes the folder ``output``. Corpora are encoded into ``stores``; None = encode, and remove
    afterwards.

    Raises:
        ConfigError: An unknown task, a system that cannot do it, or settings that do not fit.
        DataError: Missing or faulty data.
        OutputExistsError: Another process is writing the folder, or a file in it is something else.
        EvaluationError: The folder holds scores from other data or settings, or the data do not fit together.
    """
    evaluation = _Evaluation(system, output, settings, stores or Stores(), overwrite=overwrite)
    wanted = find_tasks(system, names)
    bring_back(output)
    check_inputs(output, task_places(names, settings.data_root))
    prepared = evaluation.prepare(wanted)
    averages = [output / f"{task.stem}.json" for task in wanted if task.members]
    averaged = all(part.is_file() for file in averages for part in (file, query_values_file(file)))
    # A kill after the last task leaves its marks, which only the folder's owner may remove.
    if averaged and all(one.finished for one in prepared) and not (output / _UNFINISHED).exists():
        tidy(output)
        return evaluation.score_all(wanted, prepared)
    replaces = overwrite and any(os.path.lexists(output / f"{one.task.stem}.json") for one in prepared)
    with owned(output), results_folder(output, replaces=replaces, keep=_UNFINISHED) as folder:
        sweep_temporary(folder)
        evaluation.output = folder
        scores = evaluation.score_all(wanted, prepared)
        evaluation.sweep()
    return scores


def encode_tasks(
    system: System, names: Sequence[str], folder: Path, settings: ScoringSettings = _DEFAULTS
) -> list[VectorStore]:
    """Encode the corpora of tasks into a folder of stores without scoring; several processes may share the work."""
    if system.encoder is None:
        raise ConfigError("bm25 does not encode; give a model")
    check_inputs(folder, task_places(names, settings.data_root))
    # Whether a task was scored before is irrelevant here, and so is BM25.
    evaluation = _Evaluation(replace(system, mode="dense"), folder, settings, Stores(folder), overwrite=True)
    tasks = [task for task in find_tasks(system, names) if task.kind == "retrieval"]
    if pairs := [name for name in names if find_task(name).kind == "similarity"]:
        logger.info("left out %s: sentence pairs have no corpus to encode", ", ".join(pairs))
    prepared = {one.store_key: one for one in evaluation.prepare(tasks)}
    return [evaluation.store(one) for one in prepared.values()]


@dataclass
class _Prepared:
    """One task with its data read, checked and fingerprinted; ``settings`` decide whether a finished task is kept."""

    task: Task
    settings: dict[str, Any]
    data: TaskData
    searching: Searching
    store_key: str = ""
    passages: int = 0
    facts: dict[str, object] = field(default_factory=dict)
    finished: Result | None = None


class _Evaluation:
    """One system, one folder."""

    def __init__(
        self, system: System, output: Path, settings: ScoringSettings, stores: Stores, *, overwrite: bool
    ) -> None:
        self.system, self.output, self.given, self.stores = system, output, settings, stores
        self.overwrite = overwrite
        self.facts = system.facts(settings.language)

    def prepare(self, wanted: Sequence[Task]) -> list[_Prepared]:
        """Read and check the data of every task once; of an average, its members'."""
        names = dict.fromkeys(name for task in wanted for name in (task.members or (task.name,)))
        own = {task.name: task for task in wanted}
        tasks = [own.get(name) or TASKS[name] for name in names]
        settings = {task.name: self._settings(task) for task in tasks}
        check_windows_used(self.given, [one.get("windows") for one in settings.values()])
        prepared = [self._prepared(task, settings[task.name]) for task in tasks]
        for one in prepared:
            if not one.finished:
                check_packages(self.system, one.task, self.given.language)
            if not one.finished and one.data.retrieval:
                self._check(one)
                if deeper := [
                    name for name in self.given.metrics or one.task.metrics if name not in one.settings["metrics"]
                ]:
                    left_out = ", ".join(deeper)
                    logger.info("%s: left out %s, because the depth is %d", one.task.name, left_out, self.given.depth)
        return prepared

    def _settings(self, task: Task) -> dict[str, Any]:
        """Return what decides the scores besides the data, as it comes back from JSON."""
        settings: dict[str, Any] = {"metrics": task.metrics, **self.facts}
        if task.kind != "retrieval" and self.given.sentence_sides != _DEFAULTS.sentence_sides:
            settings["sentence_sides"] = self.given.sentence_sides
        if task.kind == "retrieval":
            metrics, depth = metrics_and_depth(task, self.given)
            given = self.given.exclude_same_id
            excludes = task.exclude_same_id if given is None else given
            settings = {
                "split": task.split,
                "metrics": metrics,
                "depth": depth,
                "exclude_same_id": excludes,
                **self.facts,
                **window_facts(self.system, task, self.given, depth + bool(excludes)),
            }
            if reading := self.given.reading.choices:
                settings["reading"] = reading
        # A round trip through JSON, so that they compare equal with saved ones.
        return json.loads(json.dumps(settings))  # type: ignore[no-any-return]

    def _prepared(self, task: Task, settings: dict[str, Any]) -> _Prepared:
        data = read_task(task, self.given.data_root, self.given.reading)
        one = _Prepared(task, settings, data, Searching(), finished=self._finished(task, settings, data.fingerprints))
        if data.retrieval:
            windows, words = windows_in(settings)
            encoder, language = self.system.encoder, self.given.language
            spans: TokenSpans = word_spans
            if encoder and windows:
                from llama2vec.model.tokens import token_spans

                spans = token_spans(encoder.backbone.tokenizer)
            reading = self.given.reading
            read = (windows, words, spans, language, reading, data.inputs)
            one.searching = Searching(settings["depth"], frozenset(), *read)
            # The store is the same in every search mode.
            kept = [self.system.reader_facts(language), data.fingerprints["corpus_fingerprint"], settings["windows"]]
            kept += [reading.choices] if reading.choices else []
            one.store_key = digest(kept)
        return one

    def _check(self, one: _Prepared) -> None:
        """Read the corpus to its end and decide what that leaves open."""
        name, data = one.task.name, one.data.retrieval
        assert data
        returned = returned_passages(self.system, data)
        warn_of_another_corpus(one.task, one.data.source, self.given.data_root)
        corpus = check_corpus(one.task, one.data, self.given.data_root, self.given.reading, returned)
        if self.system.run is not None:
            check_run(self.system, data, one.settings["metrics"], corpus, returned)
        if corpus.lost:
            logger.warning("%s: the corpus lacks %s", name, counted(corpus.lost, "judged passage"))
        excluded = excluded_queries(name, data, corpus, one.settings["exclude_same_id"])
        one.passages, depth = corpus.passages, min(one.searching.depth, corpus.passages)
        one.searching = replace(one.searching, depth=depth, excluded=excluded)
        one.facts = {"passages": one.passages, "lost_passages": corpus.lost, "excluded_same_id": bool(excluded)}

    def _finished(self, task: Task, settings: Mapping[str, Any], fingerprints: Mapping[str, str]) -> Result | None:
        """Return what an earlier call scored, None if nothing; refuse other settings or data, and files not ours."""
        file = self.output / f"{task.stem}.json"
        more: list[Path] = []
        if task.kind == "retrieval":
            more = [query_values_file(file), *([] if task.members else [file.with_suffix(".trec")])]
        there = [path for path in (file, *more) if os.path.lexists(path)]
        if not there:
            return None
        if file not in there and not (self.output / _UNFINISHED / task.stem).is_file():
            raise OutputExistsError(f"{there[0]} exists without {file.name}; move it away, or choose another --output")
        try:
            found = read_result(file) if file in there else None
        except DataError as error:
            raise OutputExistsError(f"{error}; move it away, or choose another --output") from None
        if found is None or self.overwrite or len(there) <= len(more):
            return None
        saved = found.report.settings
        names, here = {"task": found.report.task}, {"task": task.name}
        if same_system(found.report.system, self.system.name):
            # One word for one system, in all files of a folder.
            self.system = replace(self.system, name=found.report.system)
        else:
            names, here = {**names, "system": found.report.system}, {**here, "system": self.system.name}
        difference = first_difference(names, here)
        old, new = ({key: one.get(key) for key in settings.keys() | _OPTIONAL} for one in (saved, settings))
        difference = difference or first_difference(old, new)
        if difference:
            key, before, now = difference
            raise EvaluationError(
                f"{file} was made with {key} {before!r}, and now it is {now!r}; choose another --output or --overwrite"
            )
        for name, fingerprint in fingerprints.items():
            if saved.get(name) != fingerprint:
                what = "corpus" if name == "corpus_fingerprint" else "queries or judgments"
                raise EvaluationError(
                    f"{task.name}: the {what} changed since {file} was made (sha256 {str(saved.get(name))[:12]} then, "
                    f"{fingerprint[:12]} now); restore the data or --overwrite"
                )
        return found

    def score_all(self, wanted: Sequence[Task], prepared: Sequence[_Prepared]) -> list[TaskScore]:
        """Score what is not finished; averages last."""
        done: dict[str, TaskScore] = {}
        for one in prepared:
            # Another process may have scored it while this one was reading.
            one.finished = one.finished or self._finished(one.task, one.settings, one.data.fingerprints)
        for number, one in enumerate(prepared):
            later = {other.store_key for other in prepared[number + 1 :] if not other.finished}
            done[one.task.name] = self._score(one, later)
        for task in wanted:
            if task.members:
                done[task.name] = self._average(task, [done[member] for member in task.members])
        return [done[task.name] for task in wanted]

    def _score(self, one: _Prepared, needed_later: set[str]) -> TaskScore:
        """Score one task and write its files; its store is removed once no later task needs it."""
        if one.finished:
            logger.info("%s: already done", one.task.name)
            return TaskScore(one.task, one.finished)
        started, name, run = time.monotonic(), self.system.name, None
        logger.info("%s: %s", one.task.name, one.data.source)
        if one.data.retrieval:
            store = self.store(one) if self.system.encoder else None
            if store:
                one.facts["vector_dtype"] = store.dtype
            run = search_task(self.system, one.data.retrieval, one.searching, store)
            if not any(run.results.values()):
                problem = f"{name} finds nothing for any query of {len(one.data.retrieval.queries):,}"
                raise EvaluationError(f"{one.task.name}: {problem}; do queries and corpus share a language?")
            metrics, qrels = one.settings["metrics"], one.data.retrieval.qrels
            warn_of_own_passages(one.task, run, qrels)
            tell_of_ties(self.system.run or run, qrels, metrics, self.system.ties, one.task.name)
            report = evaluate_run(run, qrels, task=one.task.name, metrics=metrics)
        else:
            assert self.system.encoder
            sides, pairs = self.given.sentence_sides, one.data.pairs
            report = score_pairs(self.system.encoder, pairs, task=one.task.name, name=name, sides=sides)
            report = replace(report, metrics={metric: report.metrics[metric] for metric in one.task.metrics})
        facts = {**one.settings, **one.data.fingerprints, "source": one.data.source, **one.facts}
        found = self._write(one.task, report, facts, time.monotonic() - started, run)
        if one.store_key and self.stores.folder is None and one.store_key not in needed_later:
            with suppress(OSError):
                discard(self._store_folder(one), STORE)
        return found

    def sweep(self) -> None:
        """Remove the marks and stores of unfinished tasks."""
        folder = self.output / _UNFINISHED
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.is_dir():
                discard(path, STORE)
            else:
                remove(path)
        with suppress(OSError):
            folder.rmdir()

    def _write(
        self, task: Task, report: Report, facts: Mapping[str, object], seconds: float, run: Run | None = None
    ) -> TaskScore:
        made = {**report.settings, **facts, "versions": versions(), "machine": machine()}
        result = Result(replace(report, settings=made), seconds)
        # Should a kill leave half of the files, the mark tells that they are ours.
        (self.output / _UNFINISHED).mkdir(exist_ok=True)
        (self.output / _UNFINISHED / task.stem).touch()
        write_result(self.output, result, run)
        return TaskScore(task, result)

    def store(self, one: _Prepared) -> VectorStore:
        """Open the store that holds a task's corpus, or encode it."""
        encoder, data = self.system.encoder, one.data.retrieval
        fingerprint = one.data.fingerprints["corpus_fingerprint"]
        assert encoder
        assert data
        how = one.settings["windows"], one.settings.get("reading")
        store = self.stores.find(encoder.contract_hash, fingerprint, *how, dtype=encoder.dtype) or encode_corpus(
            encoder, data, one.searching, self._store_folder(one), fingerprint=fingerprint, total=one.passages
        )
        warn_of_cut_passages(store, "score them by their best window with windows=maxp", where=one.task.name)
        return store

    def _store_folder(self, one: _Prepared) -> Path:
        assert one.data.retrieval
        # Named after the corpus, because tasks over one corpus share its store.
        corpus = Path(one.data.retrieval.corpus_source.replace(":", "-")).name
        return (self.stores.folder or self.output / _UNFINISHED) / f"{corpus}-{one.store_key[:12]}"

    def _average(self, task: Task, members: Sequence[TaskScore]) -> TaskScore:
        """Average the scores of a task's members, each counting alike, and write a result of its own."""
        settings = {**self._settings(task), "members": [member.task.name for member in members]}
        names = ("corpus_fingerprint", "judgments_fingerprint")
        found = {name: digest([member.report.settings[name] for member in members]) for name in names}
        if finished := self._finished(task, settings, found):
            return TaskScore(task, finished)
        # An earlier call's values are still on the disk.
        results = [
            with_query_values(self.output / f"{member.task.stem}.json", member.result)
            if member.result.kept
            else member.result
            for member in members
        ]
        values = {result.report.task: result.report.per_query for result in results}
        metrics = settings["metrics"]
        report = Report(
            task=task.name,
            system=self.system.name,
            metrics={metric: fmean(member.report.metrics[metric] for member in members) for metric in metrics},
            intervals={
                metric: bootstrap_difference([np.array([*one[metric].values()]) for one in values.values()])[0]
                for metric in metrics
            },
            per_query={
                metric: {
                    f"{name.removeprefix(task.name + '/')}/{query_id}": value
                    for name, by_metric in values.items()
                    for query_id, value in by_metric[metric].items()
                }
                for metric in metrics
            },
        )
        by_member = {member.task.name: dict(member.report.metrics) for member in members}
        facts = {**settings, **found, "member_metrics": by_member}
        return self._write(task, report, facts, sum(member.result.seconds for member in members))
