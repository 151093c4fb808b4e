r"""Compare our files (store, bm25s, one step to swap) with LanceDB and tantivy as the home of a living index.

    pip install lancedb tantivy
    python -m benchmarks.scale.engines ranking --data ../shared/data --output benchmarks/results/engines.json
    python -m benchmarks.scale.engines filters crashes --output benchmarks/results/engines.json
    python -m benchmarks.scale.engines size --passages 100000 --output benchmarks/results/engines.json

``ranking``: nDCG@10 of BM25 with each engine's own English words. ``filters``: does a filtered search return the best
of the allowed passages, or what is left of the best of all? ``crashes``: after SIGKILL during updates, is every file
whole, and every acknowledged update there? ``size``: wall and processor time and bytes to build an index of made-up
texts of 20 words, ten a file, with vectors of width 64, and to change one file. A part that the output holds is
replaced; the engines of ``--only`` leave the others as they are.
"""

# ruff: noqa: D102  (Engine describes the methods)

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from benchmarks.provenance import made_by
from llama2vec.data.corpus.passages import read_passages
from llama2vec.data.documents.folder import SourceFile, Walk
from llama2vec.data.tasks.beir import read_beir
from llama2vec.files import write_json
from llama2vec.records import Passage, Place, Query, Run
from llama2vec.retrieve.search.retriever import Retriever
from llama2vec.retrieve.syncing.library import Library
from llama2vec.score.metrics import evaluate_run

SETS = ("cranfield/test", "scifact/test", "squad-dev/test", "medquad/test", "msmarco-5k/test")
SAMPLED_QUERIES = 1000
WIDTH, PER_FILE, WORDS, VOCABULARY = 64, 10, 20, 50_000
YEARS, KILLS, DEPTH = 100, 20, 10
_OWN_PROCESS = (sys.executable, "-m", "benchmarks.scale.engines")
Vectors = npt.NDArray[np.float32]
Hits = list[tuple[str, float]]


def made_text(number: int, version: int = 0) -> str:
    """Return a text whose words follow Zipf's law, roughly; the version is one of its words."""
    draw = random.Random(number * 1000 + version)
    words = (f"w{int(VOCABULARY ** draw.random())}x" for _ in range(WORDS))
    return f"{' '.join(words)} version{version}x"


def made_vectors(numbers: Sequence[int], version: int = 0) -> Vectors:
    """Return [N, 64] unit vectors that the numbers decide."""
    found = np.stack([np.random.default_rng((number, version)).standard_normal(WIDTH) for number in numbers])
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def made_passages(file: int, version: int = 0) -> list[Passage]:
    """Return the ten passages of a made-up file."""
    name = f"f{file:06d}"
    numbers = range(file * PER_FILE, (file + 1) * PER_FILE)
    return [
        Passage(f"{name}#{n}", made_text(n, version), "", Place(name, 0, 1), {"year": n % YEARS, "version": version})
        for n in numbers
    ]


class Engine(Protocol):
    """What all engines are asked to do."""

    def build(self, files: Sequence[int]) -> None:
        """Index the first version of made-up files."""

    def load(self, passages: Sequence[Passage]) -> None:
        """Index texts, for their ranking."""

    def replace(self, file: int, version: int) -> None:
        """Replace a file's passages by those of another version; durable on return."""

    def words(self, query: str, depth: int, year: int | None = None) -> Hits:
        """Return the best passages by BM25, among those of a year."""

    def nearest(self, vector: Vectors, depth: int, year: int | None = None) -> Hits | None:
        """Return the nearest passages, among those of a year; None = the engine has no vectors."""

    def versions(self) -> dict[str, list[int]]:
        """Return file → versions of its passages, as a reader sees them now."""


class Ours:
    """Store, bm25s and a table of fields in files that trade places with their successors."""

    def __init__(self, folder: Path) -> None:
        self.path, self._made = folder / "index", dict[int, int]()
        self._texts: Sequence[Passage] = ()
        self.folder, self.plan, self.settings = folder / "documents", dict[str, Any](), dict[str, Any]()
        if (self.path / "documents.json").exists():
            for record in Library(self.path).inventory.files:
                self._made[int(record.path[1:])] = record.size
        self._retriever: Retriever | None = None

    dimension, contract_hash = WIDTH, "made up"

    def encode_passages(self, passages: Sequence[Passage], /) -> Vectors:
        return np.concatenate([made_vectors([int(p.id.partition("#")[2])], int(p.fields["version"])) for p in passages])

    def encode_queries(self, queries: Sequence[Query], /) -> Vectors:
        return np.array([json.loads(query.text) for query in queries], dtype=np.float32)

    # The folder that the library follows: a file's size is its version.
    def walk(self, without: Collection[Path]) -> Walk:
        if self._texts:
            return Walk(self.folder, (SourceFile(self.folder, "texts", 1, 1),))
        return Walk(
            self.folder, tuple(SourceFile(self.folder, f"f{n:06d}", v, 1) for n, v in sorted(self._made.items()))
        )

    def content(self, file: SourceFile) -> bytes:
        return bytes(file.size)

    def stamp(self, file: SourceFile) -> str:
        return ""

    def read(self, file: SourceFile, content: bytes) -> tuple[Sequence[Passage], Sequence[str]]:
        return self._texts or made_passages(int(file.name[1:]), file.size), ()

    def _sync(self, encoder: Any) -> None:
        self._retriever = None
        Library(self.path).sync(self, encoder)

    def build(self, files: Sequence[int]) -> None:
        self._made = dict.fromkeys(files, 0)
        self._sync(self)

    def load(self, passages: Sequence[Passage]) -> None:
        self._texts = passages
        self._sync(None)

    def replace(self, file: int, version: int) -> None:
        self._made[file] = version
        self._sync(self)

    @property
    def retriever(self) -> Retriever:
        if self._retriever is None:
            self._retriever = Retriever.open(self.path, self)
        return self._retriever

    def words(self, query: str, depth: int, year: int | None = None) -> Hits:
        where = None if year is None else f"year = {year}"
        return list(self.retriever.search([Query("q", query)], "bm25", depth, where=where).results["q"].items())

    def nearest(self, vector: Vectors, depth: int, year: int | None = None) -> Hits | None:
        where = None if year is None else f"year = {year}"
        asked = [Query("q", json.dumps(vector.tolist()))]
        return list(self.retriever.search(asked, "dense", depth, where=where).results["q"].items())

    def versions(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        store = Retriever.open(self.path, self).store
        store.verify()
        for passage in store.passages(range(len(store))):
            found.setdefault(passage.id.partition("#")[0], []).append(int(passage.fields["version"]))
        return found


class Lance:
    """LanceDB: one table with full text and scalar indexes."""

    def __init__(self, folder: Path) -> None:
        os.environ.setdefault("RUST_LOG", "error")
        import lancedb

        self._database = lancedb.connect(str(folder / "lance"))
        self._table = self._database.open_table("t") if (folder / "lance" / "t.lance").exists() else None

    def _rows(self, passages: Sequence[Passage], vectors: Vectors) -> Any:
        import pyarrow as pa

        flat = pa.array(vectors.reshape(-1), pa.float32())
        return pa.table({
            "id": [p.id for p in passages], "file": [p.id.partition("#")[0] for p in passages],
            "year": pa.array([p.fields.get("year", 0) for p in passages], pa.int64()),
            "version": pa.array([p.fields.get("version", 0) for p in passages], pa.int64()),
            "text": [p.full_text for p in passages], "vector": pa.FixedSizeListArray.from_arrays(flat, WIDTH),
        })  # fmt: skip

    def _fill(self, batches: Iterator[Any]) -> None:
        for batch in batches:
            if self._table is None:
                self._table = self._database.create_table("t", batch)
            else:
                self._table.add(batch)
        from lancedb.index import FTS, BTree

        self._table.create_index("id", config=BTree())
        self._table.create_index("file", config=BTree())
        self._table.create_index("text", config=FTS(with_position=False))
        self._table.optimize()

    def build(self, files: Sequence[int]) -> None:
        def batches() -> Iterator[Any]:
            for begin in range(0, len(files), 2000):
                made = [passage for file in files[begin : begin + 2000] for passage in made_passages(file)]
                yield self._rows(made, made_vectors([int(p.id.partition("#")[2]) for p in made]))

        self._fill(batches())

    def load(self, passages: Sequence[Passage]) -> None:
        self._fill(iter([self._rows(passages, np.zeros((len(passages), WIDTH), np.float32))]))

    def replace(self, file: int, version: int) -> None:
        made = made_passages(file, version)
        rows = self._rows(made, made_vectors([int(p.id.partition("#")[2]) for p in made], version))
        merge = self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
        merge.when_not_matched_by_source_delete(f"file = 'f{file:06d}'").execute(rows)

    def _search(self, query: Any, kind: str, depth: int, year: int | None) -> list[dict[str, Any]]:
        asked = (
            self._table.search(query, query_type=kind)
            .limit(depth)
            .select(["id", "_score" if kind == "fts" else "_distance"])
        )
        asked = asked.where(f"year = {year}", prefilter=True) if year is not None else asked
        found: list[dict[str, Any]] = asked.to_list()
        return found

    def words(self, query: str, depth: int, year: int | None = None) -> Hits:
        return [(row["id"], row["_score"]) for row in self._search(query, "fts", depth, year)]

    def nearest(self, vector: Vectors, depth: int, year: int | None = None) -> Hits | None:
        return [(row["id"], 1 - row["_distance"] / 2) for row in self._search(vector, "vector", depth, year)]

    def versions(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for row in self._table.search().select(["file", "version"]).limit(10**7).to_list():
            found.setdefault(row["file"], []).append(row["version"])
        return found


class Tantivy:
    """tantivy: words alone, with incremental commits."""

    def __init__(self, folder: Path) -> None:
        import tantivy

        self._tantivy, place = tantivy, folder / "tantivy"
        builder = tantivy.SchemaBuilder()
        for name in ("id", "file"):
            builder.add_text_field(name, stored=True, tokenizer_name="raw", index_option="basic")
        for name in ("year", "version"):
            builder.add_integer_field(name, stored=True, indexed=True)
        builder.add_text_field("text", stored=True, tokenizer_name="english", index_option="freq")
        self._schema = builder.build()
        place.mkdir(exist_ok=True)
        filters = tantivy.Filter
        analyzer = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple()).filter(filters.lowercase())
        analyzer = analyzer.filter(filters.stopword("english")).filter(filters.stemmer("english"))
        self._analyzer = analyzer.build()
        self._index = tantivy.Index(self._schema, path=str(place))
        self._index.register_tokenizer("english", self._analyzer)
        self._writer: Any = None

    def _add(self, passages: Sequence[Passage]) -> None:
        if self._writer is None:
            self._writer = self._index.writer(heap_size=256_000_000, num_threads=1)
        for p in passages:
            document = self._tantivy.Document()
            document.add_text("id", p.id)
            document.add_text("file", p.id.partition("#")[0])
            document.add_integer("year", int(p.fields.get("year", 0)))
            document.add_integer("version", int(p.fields.get("version", 0)))
            document.add_text("text", p.full_text)
            self._writer.add_document(document)

    def _commit(self) -> None:
        self._writer.commit()
        self._index.reload()

    def build(self, files: Sequence[int]) -> None:
        for file in files:
            self._add(made_passages(file))
        self._commit()

    def load(self, passages: Sequence[Passage]) -> None:
        self._add(passages)
        self._commit()

    def replace(self, file: int, version: int) -> None:
        self._add([])
        self._writer.delete_documents_by_term("file", f"f{file:06d}")
        self._add(made_passages(file, version))
        self._commit()

    def words(self, query: str, depth: int, year: int | None = None) -> Hits:
        queries, occur = self._tantivy.Query, self._tantivy.Occur
        terms = [queries.term_query(self._schema, "text", word) for word in self._analyzer.analyze(query)]
        asked = queries.boolean_query([(occur.Should, term) for term in terms])
        if year is not None:
            allowed = queries.const_score_query(queries.term_query(self._schema, "year", year), 0.0)
            asked = queries.boolean_query([(occur.Must, asked), (occur.Must, allowed)])
        searcher = self._index.searcher()
        return [(searcher.doc(at)["id"][0], score) for score, at in searcher.search(asked, depth).hits]

    def nearest(self, vector: Vectors, depth: int, year: int | None = None) -> Hits | None:
        return None

    def versions(self) -> dict[str, list[int]]:
        self._index.reload()
        found: dict[str, list[int]] = {}
        searcher = self._index.searcher()
        for _, at in searcher.search(self._tantivy.Query.all_query(), 10**6).hits:
            document = searcher.doc(at)
            found.setdefault(document["file"][0], []).append(document["version"][0])
        return found


ENGINES: Mapping[str, Callable[[Path], Engine]] = {"ours": Ours, "lancedb": Lance, "tantivy": Tantivy}


def ranking(make: Callable[[Path], Engine], options: argparse.Namespace) -> dict[str, Any]:
    """Return nDCG@10 of BM25 on five sets."""
    found: dict[str, Any] = {}
    for name in SETS:
        task = read_beir(options.data / name.partition("/")[0], name.partition("/")[2])
        queries = [query for query in task.queries if query.id in task.qrels]
        if len(queries) > SAMPLED_QUERIES:
            queries = random.Random(0).sample(queries, SAMPLED_QUERIES)
        with tempfile.TemporaryDirectory() as folder:
            engine = make(Path(folder))
            engine.load(list(read_passages(task.corpus_source)))
            run = Run({query.id: dict(engine.words(query.text, 100)) for query in queries})
        qrels = {query.id: task.qrels[query.id] for query in queries}
        found[name] = round(evaluate_run(run, qrels, metrics=["nDCG@10"]).metrics["nDCG@10"], 4)
    return found


def filters(make: Callable[[Path], Engine], options: argparse.Namespace) -> dict[str, Any]:
    """Return how many filtered searches have the scores of the best allowed passages; a year is 1 % of them."""
    files, correct = 1000, {"words": 0, "vectors": 0}
    asked = 50
    with tempfile.TemporaryDirectory() as folder:
        engine = make(Path(folder))
        engine.build(range(files))
        for number in range(asked):
            draw = random.Random(number)
            year, text = draw.randrange(YEARS), made_text(draw.randrange(files * PER_FILE))
            vector = made_vectors([10**6 + number])[0]
            for kind, search in (("words", engine.words), ("vectors", engine.nearest)):
                query: Any = text if kind == "words" else vector
                every, allowed = search(query, files * PER_FILE), search(query, DEPTH, year)
                if every is None or allowed is None:
                    correct[kind] = -asked
                    continue
                best = [score for name, score in every if int(name.partition("#")[2]) % YEARS == year][:DEPTH]
                correct[kind] += np.allclose(best, [score for _, score in allowed], atol=1e-4)
    return {kind: f"{number} of {asked}" if number >= 0 else "none" for kind, number in correct.items()}


def crashes(make: Callable[[Path], Engine], options: argparse.Namespace) -> dict[str, Any]:
    """Kill updates at random moments; return what a reader finds afterwards."""
    name = next(key for key, value in ENGINES.items() if value is make)
    report = {"kills": KILLS, "updates": 0, "torn": 0, "lost": 0, "unopened": 0}
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder)).build(range(50))
        acknowledged: dict[str, int] = {}
        for turn in range(KILLS):
            command = [*_OWN_PROCESS, "update", "--only", name, "--work", folder, "--seed", str(turn)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
                assert child.stdout is not None
                child.stdout.readline()  # the first update: everything is imported now
                time.sleep(random.Random(turn).uniform(0, 0.6))
                child.send_signal(signal.SIGKILL)
                lines = [line.split() for line in child.stdout.read().splitlines() if line.count(" ") == 1]
            for file, version in lines:
                acknowledged[f"f{int(file):06d}"] = int(version)
                report["updates"] += 1
            try:
                there = make(Path(folder)).versions()
            except Exception as error:  # counted, whatever it is
                print(f"{name}: {error!r}", file=sys.stderr)
                report["unopened"] += 1
                continue
            report["torn"] += sum(len(found) != PER_FILE or len(set(found)) > 1 for found in there.values())
            report["lost"] += sum(there.get(file, [-1])[0] < version for file, version in acknowledged.items())
    return report


def update(make: Callable[[Path], Engine], options: argparse.Namespace) -> None:
    """Replace files until killed, and print each replacement once it is durable."""
    engine = make(options.work)
    draw = random.Random(options.seed)
    for version in range(1 + options.seed * 1000, 1000 + options.seed * 1000):
        file = draw.randrange(50)
        engine.replace(file, version)
        print(file, version, flush=True)


def size(make: Callable[[Path], Engine], options: argparse.Namespace) -> dict[str, Any]:
    """Return seconds and bytes of building an index and of changing one file in it."""
    folder = Path(tempfile.mkdtemp(dir=options.work))
    try:
        files, measured = range(options.passages // PER_FILE), dict[str, Any]()
        engine = make(folder)
        # Part of each build: made-up texts and vectors, which are not kept.
        measured["making"] = _timed(lambda: [_rows_of(file, engine) for file in files])
        measured["build"] = _timed(lambda: engine.build(files))
        measured["bytes"] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        engine.words(made_text(1), DEPTH)
        measured["search"] = _timed(lambda: engine.words(made_text(2), DEPTH))
        measured["update"] = _timed(lambda: engine.replace(len(files) // 2, 1))
        measured["first_search_after"] = _timed(lambda: engine.words(f"version1x {made_text(3)}", DEPTH))
        found = {name.partition("#")[0] for name, _ in engine.words("version1x", PER_FILE)}
        assert found == {f"f{len(files) // 2:06d}"}, found
        measured["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    finally:
        shutil.rmtree(folder)
    return measured


def _rows_of(file: int, engine: Engine) -> int:
    passages = made_passages(file)
    return len(passages) + (0 if isinstance(engine, Tantivy) else len(made_vectors(range(len(passages)))))


def _timed(work: Callable[[], object]) -> dict[str, float]:
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return {"seconds": round(time.perf_counter() - wall, 2), "processor": round(time.process_time() - processor, 2)}


PARTS = {"ranking": ranking, "filters": filters, "crashes": crashes, "size": size, "update": update}


def main() -> None:
    """Measure the chosen parts, each engine in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--only", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--data", type=Path)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for part in options.parts:
        for name in options.only:
            if len(options.parts) == len(options.only) == 1:
                measured = PARTS[part](ENGINES[name], options)
                if options.output:
                    _keep(options.output, part if part != "size" else f"size-{options.passages}", name, measured)
            else:
                arguments = [*sys.argv[1:], "--only", name]
                arguments = [word for word in arguments if word not in PARTS or word == part]
                subprocess.run([*_OWN_PROCESS, *arguments], check=True, env=os.environ)


def _keep(output: Path, part: str, name: str, measured: Any) -> None:
    results = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
    results.setdefault(part, {})[name] = measured
    write_json(output, {**results, "made_by": made_by()})
    print(f"{part} {name}: {json.dumps(measured)}", flush=True)


if __name__ == "__main__":
    main()
