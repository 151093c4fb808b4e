"""Evaluation tasks: where each one's texts and judgments are, and how it is scored.

Sets and metrics: BEIR (arXiv 2104.08663), MS MARCO (arXiv 1611.09268), TREC Deep Learning 2019 and 2020
(arXiv 2003.07820, 2102.07662), and the similarity sets of Llama2Vec (arXiv 2312.15503).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from llama2vec.data.corpus.sources import beir_file, open_ir_dataset, reported
from llama2vec.data.corpus.steady import SteadyInputs
from llama2vec.data.settings import ReadingSettings
from llama2vec.data.tasks.beir import BeirTask, check_judged_queries, read_beir
from llama2vec.data.tasks.sts import read_sentence_pairs
from llama2vec.errors import ConfigError, CorpusFormatError, MissingDependencyError
from llama2vec.manifest import digest
from llama2vec.records import Query, Report, SentencePair
from llama2vec.score.metrics import DEFAULT_METRICS, metric_cutoffs
from llama2vec.score.results import Result, result_stem
from llama2vec.score.settings import ScoringSettings

Kind = Literal["retrieval", "similarity"]

_BEIR_METRICS = ("nDCG@10", "R@100", "MRR@10")
_PAIR_FILES = (".tsv", ".csv", ".tsv.gz", ".csv.gz")  # Their reader says what to do with a CSV


@dataclass(frozen=True, slots=True)
class Task:
    """What is scored, and how."""

    name: str  # Such as ``beir/scifact``; ``<folder>/<split>`` for a user's own folder
    kind: Kind  # Passages ranked for queries, or similarities of sentence pairs
    metrics: tuple[str, ...]  # The first one is the headline
    split: str = "test"  # Judgments of a BEIR folder
    places: tuple[str, ...] = ()  # Where the data may be, below the data root: BEIR folders, or files of sentence pairs
    remote: str = ""  # ``ir:ID`` or ``hf:NAME[:SPLIT]``, read if no place holds the data; "" = none
    members: tuple[str, ...] = ()  # Names of the tasks whose scores are averaged; such a task has no data of its own
    depth: int = 1000  # Passages per query that are scored
    exclude_same_id: bool | None = False  # Skip the passage with its query's id; None = only if it has its text, too
    long_documents: bool = False  # Documents longer than encoders read; they are cut into windows
    published: bool = True  # A public set as released; its corpus may lack a few judged passages

    @property
    def stem(self) -> str:
        """The task's name as the stem of its files."""
        return result_stem(self.name)


def _beir(name: str, ir_id: str = "", **changes: Any) -> Task:
    places = (f"beir/{name}", name)
    return Task(
        f"beir/{name}", "retrieval", _BEIR_METRICS, places=places, remote=f"ir:{ir_id or f'beir/{name}'}", **changes
    )


_FORUMS = (
    *("android", "english", "gaming", "gis", "mathematica", "physics"),
    *("programmers", "stats", "tex", "unix", "webmasters", "wordpress"),
)
_PASSAGES = ("msmarco/passage", "msmarco-passage", "beir/msmarco", "msmarco")
_DOCUMENTS = ("msmarco/document", "msmarco-document")


def _msmarco() -> Iterator[Task]:
    yield Task(
        "msmarco/passage/dev", "retrieval", ("MRR@10", "R@1000"),
        split="dev", places=_PASSAGES, remote="ir:msmarco-passage/dev/small",
    )  # fmt: skip
    yield Task(
        "msmarco/document/dev", "retrieval", ("MRR@100", "R@100"),
        split="dev", places=_DOCUMENTS, remote="ir:msmarco-document/dev", depth=100, long_documents=True,
    )  # fmt: skip
    for year in ("2019", "2020"):
        split = f"dl{year[2:]}"
        # A passage of grade 1 is on the topic but does not answer; a document of grade 1 is relevant.
        yield Task(
            f"trec-dl/{year}", "retrieval", ("nDCG@10", "AP(rel=2)", "R(rel=2)@1000"),
            split=split, places=_PASSAGES, remote=f"ir:msmarco-passage/trec-dl-{year}/judged",
        )  # fmt: skip
        yield Task(
            f"trec-dl/{year}/document", "retrieval", ("nDCG@10", "AP", "R@100"), depth=100, long_documents=True,
            split=split, places=_DOCUMENTS, remote=f"ir:msmarco-document/trec-dl-{year}/judged",
        )  # fmt: skip


def _similarity(name: str, headline: str, remote: str, *places: str) -> Task:
    other = "pearson" if headline == "spearman" else "spearman"
    files = (f"sts/{name}/test.tsv", f"{name}/test.tsv", *places)
    return Task(f"sts/{name}", "similarity", (headline, other), places=files, remote=remote)


def _all() -> Iterator[Task]:
    for name in ("trec-covid", "nq", "scidocs", "climate-fever"):
        yield _beir(name)
    for name in ("nfcorpus", "hotpotqa", "fiqa", "quora", "dbpedia-entity", "fever", "scifact"):
        yield _beir(name, f"beir/{name}/test")
    # Its queries are passages of the corpus.
    yield _beir("arguana", exclude_same_id=True)
    # The corrected judgments, which BEIR publishes under the same name.
    yield _beir("webis-touche2020", "beir/webis-touche2020/v2")
    yield _beir("msmarco", "beir/msmarco/dev", split="dev")
    forums = [_beir(f"cqadupstack/{forum}") for forum in _FORUMS]
    yield from forums
    yield Task("beir/cqadupstack", "retrieval", _BEIR_METRICS, members=tuple(forum.name for forum in forums))
    yield from _msmarco()
    yield _similarity("stsb", "spearman", "hf:mteb/stsbenchmark-sts:test", "stsb/en-test.tsv")
    for name, dataset in {"lcqmc": "LCQMC", "pawsx": "PAWSX", "atec": "ATEC", "bq": "BQ"}.items():
        yield _similarity(name, "pearson", f"hf:C-MTEB/{dataset}:test")


TASKS: Mapping[str, Task] = MappingProxyType({task.name: task for task in _all()})
"""Every named task."""


def find_task(name: str) -> Task:
    """Return a named task, or the task in a user's own folder, file or remote source.

    That is a BEIR folder (``PATH`` or ``PATH:SPLIT``), ``ir:ID``, or sentence pairs as a TSV file or
    ``hf:NAME[:CONFIG][:SPLIT]``. Names win over folders: write ``./beir/scifact`` for a folder of that name.

    >>> find_task("beir/arguana").exclude_same_id, find_task("msmarco/document/dev").metrics
    (True, ('MRR@100', 'R@100'))
    """
    if name in TASKS:
        return TASKS[name]
    if name.startswith("hf:"):
        return Task(name, "similarity", ("spearman", "pearson"), remote=name, published=False)
    if name.startswith("ir:"):
        return Task(name, "retrieval", DEFAULT_METRICS, remote=name, exclude_same_id=None, published=False)
    if name.lower().endswith(_PAIR_FILES):
        if not Path(name).is_file():
            raise ConfigError(f"{name}: no such file; give sentence pairs or the name of a task")
        stem = Path(name).name.lower().removesuffix(".gz").rpartition(".")[0]
        file = str(Path(name).resolve())
        return Task(f"sts/{stem}", "similarity", ("spearman", "pearson"), places=(file,), published=False)
    path, _, split = name.rpartition(":")
    for folder, chosen in ((name, "test"), (path, split)):
        if folder and Path(folder).is_dir():
            place = Path(folder).resolve()
            return Task(
                f"{place.name}/{chosen}", "retrieval", DEFAULT_METRICS, split=chosen, places=(str(place),),
                exclude_same_id=None, published=False,
            )  # fmt: skip
    near = difflib.get_close_matches(name, TASKS, n=1, cutoff=0.6)
    known = ", ".join(name for name in TASKS if not name.startswith("beir/cqadupstack/"))
    hint = f"did you mean '{near[0]}'?" if near else f"choose from {known}, or give a BEIR folder"
    raise ConfigError(f"unknown task or folder '{name}'; {hint}")


def metrics_and_depth(task: Task, settings: ScoringSettings) -> tuple[list[str], int]:
    """Return the metrics of a retrieval task, and how many passages per query they are computed from.

    Without metrics in the settings, these are the task's own for which the depth is enough.

    Raises:
        ConfigError: The depth of the settings is less than a metric needs that they name, or than all of the task's do.
        EvaluationError: A metric that cannot be computed.
    """
    metrics = list(settings.metrics or task.metrics)
    cutoffs, depth = metric_cutoffs(metrics), settings.depth
    if depth is None:
        return metrics, max(task.depth, *cutoffs.values())
    enough = [name for name in metrics if cutoffs[name] <= depth]
    if enough and not settings.metrics:
        return enough, depth
    if deeper := [name for name in metrics if name not in enough]:
        needs = "needs" if len(deeper) == 1 else "need"
        others = [f"{name.rpartition('@')[0]}@{depth}" for name in deeper]
        raise ConfigError(
            f"{task.name}: depth {depth} is less than {_listed(deeper)} {needs}; raise it (--depth, or "
            f"evaluate.depth in a recipe), or ask for {_listed(others)}"
        )
    return metrics, depth


def _listed(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]


def check_scoring(names: Iterable[str], settings: ScoringSettings) -> None:
    """Check names of tasks, metrics and depth without reading anything; errors of :func:`metrics_and_depth`."""
    tasks = [find_task(name) for name in names]
    metric_cutoffs(settings.metrics)
    for task in tasks:
        if task.kind == "retrieval":
            metrics_and_depth(task, settings)


def locate(task: Task, root: str | Path) -> str:
    """Return where a task's data is: the first of its places that holds it, else its remote source."""
    paths = [Path(root, place) for place in task.places]
    found = next((place for place in paths if _holds(place, task)), None)
    if found is not None:
        return str(found)
    # The reader of a user's own folder says what is wrong with it.
    return task.remote or str(paths[0])


def passed_over(task: Task, root: str | Path) -> str:
    """Return a place of a task that holds a corpus, but not the judgments, so that :func:`locate` went past it; or "".

    Tasks of one family share such a place, and the corpus that is read instead may lack its titles.
    """
    source = locate(task, root)
    for place in [Path(root, place) for place in task.places if task.kind == "retrieval"]:
        if str(place) == source:
            return ""
        if beir_file(place, "corpus") is not None:
            return str(place)
    return ""


def task_places(names: Iterable[str], root: str | Path) -> list[str]:
    """Return where the data of tasks is, that of averages' members in their place."""
    tasks = [find_task(name) for name in names]
    return [locate(one, root) for task in tasks for one in ([TASKS[name] for name in task.members] or [task])]


@contextmanager
def naming_places(task: Task, source: str, root: str | Path) -> Iterator[None]:
    """Add the places where the data was looked for to an error from a remote source."""
    try:
        yield
    except (CorpusFormatError, MissingDependencyError) as error:
        if source != task.remote or not task.places:
            raise
        looked = ", ".join(str(Path(root, place)) for place in task.places)
        what = f"{task.name} is not at {looked}, and {error}; or name the folder that holds it with --data-root"
        raise type(error)(what) from error


def _holds(place: Path, task: Task) -> bool:
    if task.kind == "similarity":
        return place.is_file()
    return beir_file(place, "corpus") is not None and (place / "qrels" / f"{task.split}.tsv").is_file()


@dataclass(frozen=True, slots=True)
class TaskData:
    """What a task is scored on."""

    source: str  # Where it was found
    fingerprints: Mapping[str, str]  # Of its corpus, judgments or pairs
    retrieval: BeirTask | None = None  # Queries and judgments, the corpus still to be streamed; None for sentence pairs
    pairs: Sequence[SentencePair] = ()
    inputs: SteadyInputs = field(default_factory=SteadyInputs)  # What the fingerprint of the corpus is of


def read_task(task: Task, root: str | Path, reading: ReadingSettings | None = None) -> TaskData:
    """Read a task's queries and judgments, or its sentence pairs, and fingerprint them and the corpus.

    ``reading`` names the fields of a BEIR folder's rows, as in :func:`llama2vec.data.tasks.beir.read_beir`.
    """
    source = locate(task, root)
    with naming_places(task, source, root):
        if task.kind == "similarity":
            pairs = read_sentence_pairs(source)
            found = digest([[pair.first, pair.second, pair.score] for pair in pairs])
            return TaskData(source, {"corpus_fingerprint": found}, pairs=pairs)
        data = read_retrieval(task, source, reading)
        judged = judgments_fingerprint(data)
        inputs = SteadyInputs()
        fingerprints = {"corpus_fingerprint": inputs.corpus(data.corpus_source), "judgments_fingerprint": judged}
        return TaskData(source, fingerprints, data, inputs=inputs)


def judgments_fingerprint(data: BeirTask) -> str:
    """Return a hash of a task's queries and judgments."""
    return digest([[[query.id, query.text] for query in data.queries], data.qrels])


@dataclass(frozen=True, slots=True)
class TaskScore:
    """A system's result on a task; ``result`` lacks values per query if an earlier call made it."""

    task: Task
    result: Result

    @property
    def report(self) -> Report:
        """The scores."""
        return self.result.report


def read_retrieval(task: Task, source: str, reading: ReadingSettings | None = None) -> BeirTask:
    """Return the queries and judgments of a retrieval task from where :func:`locate` found it.

    ``reading`` is as in :func:`read_task`; data sets of ir_datasets have fixed fields.
    """
    if not source.startswith("ir:"):
        return replace(read_beir(source, task.split, reading), name=task.name)
    dataset = open_ir_dataset(source)
    missing = [part for part in ("docs", "queries", "qrels") if not getattr(dataset, f"has_{part}")()]
    if missing:
        raise CorpusFormatError(f"{source} has no {' and no '.join(missing)}; name a data set with judgments")
    qrels: dict[str, dict[str, int]] = {}
    for judgment in _rows(dataset.qrels_iter, source):
        qrels.setdefault(judgment.query_id, {})[judgment.doc_id] = int(judgment.relevance)
    queries = [
        Query(query.query_id, query.text if hasattr(query, "text") else query.default_text())
        for query in _rows(dataset.queries_iter, source)
        if query.query_id in qrels
    ]
    check_judged_queries(qrels, queries, source)
    import ir_datasets

    # Tasks over one corpus share its source.
    ir_id = source.removeprefix("ir:")
    return BeirTask(task.name, queries, qrels, f"ir:{ir_datasets.docs_parent_id(ir_id) or ir_id}")


def retrieval_task(name: str, root: str | Path, reading: ReadingSettings | None = None) -> BeirTask:
    """Return queries, judgments and corpus of one retrieval task; ``reading`` is as in :func:`read_task`.

    Raises:
        ConfigError: The name stands for sentence pairs or for the average of several tasks.
    """
    task = find_task(name)
    if task.kind != "retrieval" or task.members:
        raise ConfigError(f"--task {name}: runs belong to one retrieval task; name one, such as beir/scifact")
    data = read_task(task, root, reading).retrieval
    assert data
    return data


def _rows(iterate: Callable[[], Iterable[Any]], source: str) -> Iterator[Any]:
    """Yield rows; turn a failed download into one line."""

    def rows() -> Iterator[Any]:
        yield from iterate()

    return reported(rows(), source)
