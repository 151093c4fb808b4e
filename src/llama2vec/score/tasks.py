"""Named evaluation tasks as data: where each one's texts and judgments are, and how it is scored.

Sets and measures: BEIR (arXiv 2104.08663), MS MARCO (arXiv 1611.09268), TREC Deep Learning 2019 and 2020
(arXiv 2003.07820, 2102.07662), and the similarity sets of Llama2Vec (arXiv 2312.15503).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from llama2vec.data.beir import BeirTask, check_judged_queries, read_beir
from llama2vec.data.hub import open_ir_dataset, reported
from llama2vec.errors import ConfigError, CorpusFormatError, MissingDependencyError
from llama2vec.records import Query

Kind = Literal["retrieval", "similarity"]

FOLDER_MEASURES = ("nDCG@10", "MRR@10", "R@100")
"""What a folder of one's own is scored with."""
_BEIR_MEASURES = ("nDCG@10", "R@100", "MRR@10")
_PAIR_FILES = (".tsv", ".csv", ".tsv.gz", ".csv.gz")


@dataclass(frozen=True, slots=True)
class Task:
    """What is evaluated, and how.

    Attributes:
        name: Such as ``beir/scifact``; a folder of one's own is ``<folder>/<split>``.
        kind: Passages found for queries, or similarities of sentence pairs.
        measures: The first one is the headline.
        split: Which judgments of a BEIR folder.
        places: Where the data may be, below the data root: BEIR folders, or files of sentence pairs.
        remote: ``ir:ID`` or ``hf:NAME[:SPLIT]``, read where no place holds the data; "" = nowhere else.
        members: Names of the tasks whose scores are averaged; such a task has no data of its own.
        depth: Passages per query that are scored.
        exclude_same_id: Leave out the passage that has its query's id; None = where a query stands in the corpus
            under its own id and text. Elsewhere an id in common is a coincidence.
        long_documents: Documents that an encoder cannot read whole; they are cut into windows.
        published: A public set as its authors released it, judgments of lost passages included.
    """

    name: str
    kind: Kind
    measures: tuple[str, ...]
    split: str = "test"
    places: tuple[str, ...] = ()
    remote: str = ""
    members: tuple[str, ...] = ()
    depth: int = 1000
    exclude_same_id: bool | None = False
    long_documents: bool = False
    published: bool = True

    @property
    def stem(self) -> str:
        """Return the task's name as the beginning of a file name.

        >>> Task("beir/scifact", "retrieval", ("nDCG@10",)).stem
        'beir-scifact'
        """
        return self.name.replace("/", "-").replace(":", "-")


def _beir(name: str, ir_id: str = "", **changes: Any) -> Task:
    places = (f"beir/{name}", name)
    return Task(
        f"beir/{name}", "retrieval", _BEIR_MEASURES, places=places, remote=f"ir:{ir_id or f'beir/{name}'}", **changes
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
    yield Task("beir/cqadupstack", "retrieval", _BEIR_MEASURES, members=tuple(forum.name for forum in forums))
    yield from _msmarco()
    yield _similarity("stsb", "spearman", "hf:mteb/stsbenchmark-sts:test", "stsb/en-test.tsv")
    for name, dataset in {"lcqmc": "LCQMC", "pawsx": "PAWSX", "atec": "ATEC", "bq": "BQ"}.items():
        yield _similarity(name, "pearson", f"hf:C-MTEB/{dataset}:test")


TASKS: Mapping[str, Task] = MappingProxyType({task.name: task for task in _all()})
"""Every named task."""


def find_task(name: str) -> Task:
    """Return a named task, or the task that a path or source of one's own is.

    A name of the registry goes before a folder that is called the same: write ``./beir/scifact`` for the folder.

    >>> find_task("beir/arguana").exclude_same_id, find_task("msmarco/document/dev").measures
    (True, ('MRR@100', 'R@100'))

    Args:
        name: A name of :data:`TASKS`; a BEIR folder as ``PATH`` or ``PATH:SPLIT``; ``ir:ID``; sentence pairs as a
            TSV or CSV file or ``hf:NAME[:CONFIG][:SPLIT]``.

    Raises:
        ConfigError: Neither; with the nearest name.
    """
    if name in TASKS:
        return TASKS[name]
    if name.startswith("hf:"):
        return Task(name, "similarity", ("spearman", "pearson"), remote=name, published=False)
    if name.startswith("ir:"):
        return _own_folder(Task(name, "retrieval", FOLDER_MEASURES, remote=name))
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
            own = Task(f"{place.name}/{chosen}", "retrieval", FOLDER_MEASURES, split=chosen, places=(str(place),))
            return _own_folder(own)
    near = difflib.get_close_matches(name, TASKS, n=1, cutoff=0.6)
    hint = f"did you mean '{near[0]}'?" if near else f"choose from {', '.join(_short_names())}, or give a BEIR folder"
    raise ConfigError(f"there is no task and no folder '{name}'; {hint}")


def _own_folder(task: Task) -> Task:
    return replace(task, exclude_same_id=None, published=False)


def _short_names() -> list[str]:
    return [name for name in TASKS if not name.startswith("beir/cqadupstack/")]


def locate(task: Task, root: str | Path) -> str:
    """Return where a task's data is: the first of its places that has it, else its remote source.

    Raises:
        CorpusFormatError: Nowhere; with where it was looked for.
    """
    found = next((place for place in _paths(task, root) if _holds(place, task)), None)
    if found is not None:
        return str(found)
    if task.remote:
        return task.remote
    # A folder of one's own: its reader says what is wrong with it.
    return str(_paths(task, root)[0])


@contextmanager
def told_where(task: Task, source: str, root: str | Path) -> Iterator[None]:
    """Put into an error from a remote source where the data was looked for before."""
    try:
        yield
    except (CorpusFormatError, MissingDependencyError) as error:
        if source != task.remote or not task.places:
            raise
        looked = ", ".join(map(str, _paths(task, root)))
        what = f"{task.name} is not at {looked}, and {error}; or name the folder that holds it with --data-root"
        raise type(error)(what) from error


def _paths(task: Task, root: str | Path) -> list[Path]:
    return [Path(root, place) for place in task.places]


def _holds(place: Path, task: Task) -> bool:
    if task.kind == "similarity":
        return place.is_file()
    corpus = any((place / name).is_file() for name in ("corpus.jsonl", "corpus.jsonl.gz"))
    return corpus and (place / "qrels" / f"{task.split}.tsv").is_file()


def read_retrieval(task: Task, source: str) -> BeirTask:
    """Return the queries and judgments of a retrieval task; the corpus is left to be streamed.

    Args:
        task: Which.
        source: What :func:`locate` found.

    Raises:
        CorpusFormatError: The source lacks documents, queries or judgments, or cannot be read.
        RunFormatError: A faulty line in the judgments.
        MissingDependencyError: ``ir:`` without its package.
    """
    if not source.startswith("ir:"):
        return replace(read_beir(source, task.split), name=task.name)
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
    return BeirTask(task.name, queries, qrels, f"ir:{_documents_of(source)}")


def _rows(iterate: Callable[[], Iterable[Any]], source: str) -> Iterator[Any]:
    """Yield rows; a download that fails, at the call or on the way, becomes one line."""

    def rows() -> Iterator[Any]:
        yield from iterate()

    return reported(rows(), source)


def _documents_of(source: str) -> str:
    """Return the id of the data set whose documents these are: tasks over one corpus share it."""
    import ir_datasets

    ir_id = source.removeprefix("ir:")
    return str(ir_datasets.docs_parent_id(ir_id) or ir_id)
