"""Many tasks, one system: scored one by one into a folder, skipped where nothing changed, averaged at the end."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import numpy as np

from llama2vec.data.beir import BeirTask
from llama2vec.data.corpus import corpus_fingerprint
from llama2vec.data.sts import read_sentence_pairs
from llama2vec.data.trec import check_id
from llama2vec.data.windows import WindowKind, WindowSettings, word_spans
from llama2vec.errors import ConfigError, EvaluationError, StoreError
from llama2vec.manifest import digest, first_difference
from llama2vec.records import Passage, Report, Run, SentencePair
from llama2vec.retrieve.store import VectorStore
from llama2vec.score.metrics import check_measures, evaluate_run
from llama2vec.score.scoring import (
    Searching,
    SearchMode,
    bm25_run,
    bm25_settings,
    check_self_retrieval,
    check_task,
    encode_corpus,
    encoder_facts,
    encoder_run,
    encoder_spans,
    search_facts,
    similarity_report,
    with_settings,
)
from llama2vec.score.significance import bootstrap_difference
from llama2vec.score.task_scores import TaskScore, per_query, read_score, write_score
from llama2vec.score.tasks import TASKS, Task, find_task, locate, read_retrieval, told_where

if TYPE_CHECKING:
    from llama2vec.model.encoder import Encoder

logger = logging.getLogger(__name__)

_UNFINISHED = ".unfinished"


@dataclass(frozen=True)
class System:
    """What is evaluated.

    Attributes:
        name: In reports and runs; one word.
        encoder: The model; None = BM25.
        mode: How the model's corpora are searched.
        language: Of BM25's words, where it takes part.
    """

    name: str
    encoder: Encoder | None = None
    mode: SearchMode = "dense"
    language: str = "en"

    def facts(self) -> dict[str, object]:
        """Return what decides its scores."""
        if self.encoder is not None:
            return {**encoder_facts(self.encoder), **search_facts(self.mode, self.language)}
        return {"contract_hash": None, "encoder": {"name": "bm25", **bm25_settings(self.language)}}


@dataclass(frozen=True)
class EvaluationOptions:
    """How tasks are scored, and where to.

    Attributes:
        output: The folder of the evaluation.
        data_root: Where named tasks' data is looked for.
        measures: Of retrieval tasks, instead of each task's own.
        depth: Passages per query, instead of each task's own.
        windows: How documents are cut; None = ``firstp`` for an encoder on tasks of long documents, else not at all.
        window_tokens: Most tokens of a window; None = as many as the encoder reads of a passage.
        stride: Tokens between the beginnings of windows; None = half a window.
        exclude_same_id: Instead of what each task says.
        stores: Keep encoded corpora here, and use those that are here; None = encode anew, remove afterwards.
        overwrite: Score finished tasks again.
    """

    output: Path
    data_root: Path = Path("data")
    measures: tuple[str, ...] = ()
    depth: int | None = None
    windows: WindowKind | None = None
    window_tokens: int | None = None
    stride: int | None = None
    exclude_same_id: bool | None = None
    stores: Path | None = None
    overwrite: bool = False


def evaluate_tasks(system: System, names: Sequence[str], options: EvaluationOptions) -> list[TaskScore]:
    """Score a system on tasks, in their order; each is finished on disk before the next one begins.

    Everything is read and checked before the first corpus is encoded. A task whose system, settings and data are those
    of an earlier call is skipped.

    Args:
        system: What is evaluated.
        names: As :func:`llama2vec.score.tasks.find_task` reads them.
        options: Settings and the folder.

    Raises:
        ConfigError: A task that does not exist, a system that cannot do it, or settings that do not fit.
        DataError: Missing or faulty data.
        EvaluationError: The folder holds the task's scores from other data or settings, and ``overwrite`` is not set;
            or data that does not fit together.
    """
    evaluation = _Evaluation(system, options)
    wanted = _find_tasks(system, names)
    prepared = evaluation.prepare(wanted)
    options.output.mkdir(parents=True, exist_ok=True)
    done: dict[str, TaskScore] = {}
    for number, one in enumerate(prepared):
        later = {other.store_key for other in prepared[number + 1 :] if not other.finished}
        done[one.task.name] = evaluation.score(one, later)
    for task in wanted:
        if task.members:
            done[task.name] = evaluation.average(task, [done[member] for member in task.members])
    shutil.rmtree(options.output / _UNFINISHED, ignore_errors=True)
    return [done[task.name] for task in wanted]


def encode_tasks(system: System, names: Sequence[str], options: EvaluationOptions) -> list[VectorStore]:
    """Encode the corpora of tasks into ``options.stores`` and score nothing; any number of processes may share it.

    Raises:
        ConfigError: No folder for the stores, BM25, or as in :func:`evaluate_tasks`.
        DataError: Missing or faulty data.
    """
    if options.stores is None or system.encoder is None:
        raise ConfigError("encoding alone needs a model and a folder for what it makes; give a model and --store")
    # Whether a task was scored before decides nothing here.
    evaluation = _Evaluation(system, replace(options, overwrite=True))
    tasks = [task for task in _find_tasks(system, names) if task.kind == "retrieval"]
    prepared = {one.store_key: one for one in evaluation.prepare(tasks)}
    return [evaluation.store(one) for one in prepared.values()]


# -------------------------------------------------------------------------------------------------------- what to do


@dataclass
class _Prepared:
    """One task with its data read, checked and fingerprinted."""

    task: Task
    source: str
    settings: dict[str, Any]
    """Those that must be the same for a finished task to be skipped."""
    fingerprints: dict[str, str]
    data: BeirTask | list[SentencePair]
    searching: Searching
    store_key: str = ""
    passages: int = 0
    facts: Mapping[str, object] | None = None
    finished: TaskScore | None = None


def _find_tasks(system: System, names: Sequence[str]) -> list[Task]:
    tasks = [find_task(name) for name in dict.fromkeys(names)]
    if not tasks:
        raise ConfigError("there is no task to evaluate; name one, such as beir/scifact")
    by_stem: dict[str, Task] = {}
    for task in tasks:
        if by_stem.setdefault(task.stem, task) != task:
            raise ConfigError(f"two tasks would be written to {task.stem}.json; evaluate them into different folders")
        if task.kind == "similarity" and system.encoder is None:
            raise ConfigError(f"{task.name}: bm25 does not score sentence pairs; give a model")
        if task.kind == "similarity" and system.mode != "dense":
            raise ConfigError(f"{task.name}: sentence pairs are not searched; leave out --mode {system.mode}")
    check_id(system.name, "name of the system", "--name")
    return list(by_stem.values())


class _Evaluation:
    """One system, one folder."""

    def __init__(self, system: System, options: EvaluationOptions) -> None:
        self.system = system
        self.options = options
        self.system_facts = system.facts()

    # ---------------------------------------------------------------------------------------------------- before

    def prepare(self, wanted: Sequence[Task]) -> list[_Prepared]:
        """Read and check the data of every task, members instead of averages; each once."""
        names = dict.fromkeys(name for task in wanted for name in (task.members or (task.name,)))
        own = {task.name: task for task in wanted}
        tasks = [own.get(name) or TASKS[name] for name in names]
        settings = {task.name: self._settings(task) for task in tasks}
        sized = self.options.window_tokens or self.options.stride
        if sized and not any(one.get("windows") for one in settings.values()):
            raise ConfigError("no document is cut into windows; give --windows maxp or firstp with their size")
        prepared = [self._prepared(task, settings[task.name]) for task in tasks]
        for one in prepared:
            if not one.finished and isinstance(one.data, BeirTask):
                self._check(one, one.data)
        return prepared

    def _settings(self, task: Task) -> dict[str, Any]:
        if task.kind == "similarity":
            return _plain({"measures": task.measures, **self.system_facts})
        measures = list(self.options.measures or task.measures)
        check_measures(measures)
        windows = self._windows(task)
        exclude = self.options.exclude_same_id
        settings = {
            "split": task.split,
            "measures": measures,
            "depth": self.options.depth or task.depth,
            "windows": asdict(windows) if windows else None,
            "exclude_same_id": task.exclude_same_id if exclude is None else exclude,
            **self.system_facts,
        }
        return _plain(settings)

    def _windows(self, task: Task) -> WindowSettings | None:
        options, encoder = self.options, self.system.encoder
        # An encoder reads the beginning of a long document anyway; cut first, its rest need not be tokenized.
        kind = options.windows or ("firstp" if task.long_documents and encoder else None)
        if kind is None:
            return None
        limit = encoder.contract.encoder.passage_max_tokens if encoder else None
        tokens = options.window_tokens or limit
        if tokens is None:
            raise ConfigError("bm25 has no limit that windows could take over; give --window-tokens, counted in words")
        if limit and tokens > limit:
            problem = f"windows of {tokens} tokens are longer than the {limit} that {self.system.name} reads of a text"
            raise ConfigError(f"{problem}; choose at most {limit}")
        stride = options.stride or max(1, tokens // 2)
        return WindowSettings(kind, tokens, tokens if kind == "firstp" else stride)

    def _prepared(self, task: Task, settings: dict[str, Any]) -> _Prepared:
        root = self.options.data_root
        source = locate(task, root)
        with told_where(task, source, root):
            if task.kind == "similarity":
                pairs = read_sentence_pairs(source)
                found = {"corpus_fingerprint": digest([[pair.first, pair.second, pair.score] for pair in pairs])}
                prepared = _Prepared(task, source, settings, found, pairs, Searching())
            else:
                data = read_retrieval(task, source)
                found = {
                    "corpus_fingerprint": corpus_fingerprint(data.corpus_source),
                    "judgments_fingerprint": digest([[[one.id, one.text] for one in data.queries], data.qrels]),
                }
                windows = WindowSettings(**settings["windows"]) if settings["windows"] else None
                encoder = self.system.encoder
                spans = encoder_spans(encoder) if encoder and windows else word_spans
                exclude = bool(settings["exclude_same_id"])
                searching = Searching(settings["depth"], exclude, windows, spans, self.system.language)
                # However it is searched, the store is the same.
                reader = encoder_facts(encoder) if encoder else self.system_facts
                kept = [reader, found["corpus_fingerprint"], settings["windows"]]
                prepared = _Prepared(task, source, settings, found, data, searching, store_key=digest(kept))
        prepared.finished = self._finished(task, settings, found, source)
        return prepared

    def _check(self, one: _Prepared, data: BeirTask) -> None:
        """Read the corpus to its end."""
        for query in data.queries:
            check_id(query.id, "query", one.source)

        def check_passage(passage: Passage) -> None:
            check_id(passage.id, "passage", one.source)

        with told_where(one.task, one.source, self.options.data_root):
            facts = check_task(data, published=one.task.published, check_passage=check_passage)
        if facts.lost:
            logger.warning("%s: %d judged passages are not in its corpus", one.task.name, facts.lost)
        exclude = one.settings["exclude_same_id"]
        if exclude is None and facts.own:
            exclude = True
            logger.warning(
                "%s: %d queries are passages of the corpus themselves and are not found by it (--no-exclude-same-id)",
                one.task.name, facts.own,
            )  # fmt: skip
        elif not exclude and facts.own:
            logger.warning("%s: %d queries are passages of the corpus and find themselves", one.task.name, facts.own)
        if exclude:
            check_self_retrieval(data)
        one.searching, one.passages = replace(one.searching, exclude_same_id=bool(exclude)), facts.passages
        one.facts = {"passages": facts.passages, "lost_passages": facts.lost, "excluded_same_id": bool(exclude)}

    def _finished(
        self, task: Task, settings: Mapping[str, Any], fingerprints: Mapping[str, str], source: str
    ) -> TaskScore | None:
        """Return the scores of an earlier call; None = the task is to be scored.

        Raises:
            EvaluationError: They are of other settings or data.
        """
        file = self.options.output / f"{task.stem}.json"
        score = None if self.options.overwrite else read_score(self.options.output, task)
        if score is None:
            return None
        saved = score.report.settings
        names = {"task": score.report.task, "system": score.report.system}
        difference = first_difference(names, {"task": task.name, "system": self.system.name})
        difference = difference or first_difference({key: saved.get(key) for key in settings}, settings)
        if difference:
            key, there, now = difference
            raise EvaluationError(
                f"{file} was made with {key} {there!r}, and now it is {now!r}; choose another --output or --overwrite"
            )
        for name, fingerprint in fingerprints.items():
            if saved.get(name) != fingerprint:
                what = "corpus" if name == "corpus_fingerprint" else "queries or judgments"
                raise EvaluationError(
                    f"{task.name}: the {what} of {source} changed since {file} was made (sha256 "
                    f"{str(saved.get(name))[:12]} then, {fingerprint[:12]} now); restore the data or --overwrite"
                )
        return score

    # --------------------------------------------------------------------------------------------------- scoring

    def score(self, one: _Prepared, needed_later: set[str]) -> TaskScore:
        """Score one task and write its files; its store goes where no later task needs it."""
        if one.finished:
            logger.info("%s: finished already, skipped", one.task.name)
            return one.finished
        started, name = time.monotonic(), self.system.name
        logger.info("%s: %s", one.task.name, one.source)
        run = None
        if isinstance(one.data, BeirTask):
            run = self._run(one, one.data)
            if not any(run.results.values()):
                problem = f"{name} finds nothing for any of the {len(one.data.queries)} queries"
                raise EvaluationError(f"{one.task.name}: {problem}; do queries and corpus share a language?")
            report = evaluate_run(run, one.data.qrels, task=one.task.name, measures=one.settings["measures"])
        else:
            assert self.system.encoder
            report = similarity_report(self.system.encoder, one.data, task=one.task.name, name=name)
            report = replace(report, metrics={measure: report.metrics[measure] for measure in one.task.measures})
        facts = {**one.settings, **one.fingerprints, "source": one.source, **(one.facts or {})}
        score = TaskScore(one.task, with_settings(report, facts), time.monotonic() - started, skipped=False)
        write_score(self.options.output, score, run)
        if one.store_key and self.options.stores is None and one.store_key not in needed_later:
            shutil.rmtree(self._store_folder(one), ignore_errors=True)
        return score

    def _run(self, one: _Prepared, data: BeirTask) -> Run:
        if self.system.encoder is None:
            return bm25_run(data, one.searching, self.system.name)
        store = self.store(one)
        one.facts = {**(one.facts or {}), "vector_dtype": store.dtype}
        return encoder_run(self.system.encoder, data, one.searching, store, self.system.name, self.system.mode)

    def store(self, one: _Prepared) -> VectorStore:
        """Encode a task's corpus, or open the store that has it."""
        assert self.system.encoder
        assert isinstance(one.data, BeirTask)
        fingerprint, folder = one.fingerprints["corpus_fingerprint"], self.options.stores
        if folder is not None and folder.is_dir():
            for place in (folder, *sorted(folder.iterdir())):
                if _is_store_of(place, self.system.encoder.contract_hash, fingerprint, one.settings["windows"]):
                    return VectorStore.open(place)
        return encode_corpus(
            self.system.encoder, one.data, one.searching, self._store_folder(one),
            fingerprint=fingerprint, total=one.passages,
        )  # fmt: skip

    def _store_folder(self, one: _Prepared) -> Path:
        assert isinstance(one.data, BeirTask)
        # Not the task's name: tasks over one corpus share its store.
        corpus = Path(one.data.corpus_source.replace(":", "-")).name
        return (self.options.stores or self.options.output / _UNFINISHED) / f"{corpus}-{one.store_key[:12]}"

    # --------------------------------------------------------------------------------------------------- average

    def average(self, task: Task, members: Sequence[TaskScore]) -> TaskScore:
        """Average the scores of a task's members, each counting alike, and write it like a task of its own."""
        settings = {**self._settings(task), "members": [member.task.name for member in members]}
        names = ("corpus_fingerprint", "judgments_fingerprint")
        found = {name: digest([member.report.settings[name] for member in members]) for name in names}
        finished = self._finished(task, settings, found, task.name)
        if finished:
            return finished
        values = {member.task.name: per_query(self.options.output, member) for member in members}
        measures = settings["measures"]
        report = Report(
            task=task.name,
            system=self.system.name,
            metrics={measure: fmean(member.report.metrics[measure] for member in members) for measure in measures},
            intervals={
                measure: bootstrap_difference([np.array([*one[measure].values()]) for one in values.values()])[0]
                for measure in measures
            },
            per_query={
                measure: {
                    f"{name.removeprefix(task.name + '/')}/{query_id}": value
                    for name, by_measure in values.items()
                    for query_id, value in by_measure[measure].items()
                }
                for measure in measures
            },
        )
        by_member = {member.task.name: dict(member.report.metrics) for member in members}
        facts = {**settings, **found, "member_metrics": by_member}
        seconds = sum(member.seconds for member in members)
        score = TaskScore(task, with_settings(report, facts), seconds, skipped=False)
        write_score(self.options.output, score, None)
        return score


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings as they come back from JSON, so that they compare with saved ones."""
    return json.loads(json.dumps(settings))  # type: ignore[no-any-return]


def _is_store_of(folder: Path, contract_hash: str, fingerprint: str, windows: Mapping[str, Any] | None) -> bool:
    """Tell whether a folder holds a finished store of this corpus, cut like this, under this contract."""
    if not (folder / "store.json").is_file():
        return False
    try:
        store = VectorStore.open(folder)
    except StoreError:
        # Damaged, or of another version; encoding repairs its own.
        return False
    same = store.source.get("fingerprint") == fingerprint and store.source.get("windows") == windows
    return same and store.contract_hash == contract_hash
