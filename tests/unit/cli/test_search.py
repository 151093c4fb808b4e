"""`llama2vec search`, with a tiny model."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from counting_encoder import CountingEncoder
from running import CommandLine
from synced_folder import sync, write

from llama2vec.data.tasks.trec import read_run
from llama2vec.records import Passage, Place
from llama2vec.retrieve.index.folder import build_index
from llama2vec.retrieve.search.retriever import Retriever
from llama2vec.retrieve.store.writer import write_store

CPU = ["--dtype", "float32", "--device", "cpu"]


@pytest.fixture(scope="module")
def index(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "index"
    build_index(store, folder, bm25="en")
    return folder


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    path = tmp_path / "queries.tsv"
    path.write_text("q1\triver stone\nq2\tmarket\n", encoding="utf-8")
    return path


def found_ids(output: str) -> list[str]:
    return [line.split()[2] for line in output.splitlines() if line.lstrip()[1:2] == "."]


@pytest.mark.parametrize("mode", ["dense", "bm25", "hybrid"])
def test_each_mode_answers_a_question_and_writes_a_run(
    index: Path, queries: Path, tmp_path: Path, command_line: CommandLine, mode: str
) -> None:
    done = command_line("search", index, "river stone bridge", "--mode", mode, "--depth", 3, *CPU)
    expected = Retriever.open(index, device="cpu", dtype="float32").hits("river stone bridge", mode, 3)  # type: ignore[arg-type]
    assert found_ids(done.out) == [hit.passage.id for hit in expected]
    options = ["--mode", mode, "--queries", queries, "--run", tmp_path / "x.trec", "--depth", 2**31 - 1, *CPU]
    assert command_line("search", index, *options).code == 0
    run = read_run(tmp_path / "x.trec")
    assert run.tag == ("llama2vec" if mode == "dense" else f"llama2vec-{mode}")
    assert set(run.results) == {"q1", "q2"}
    assert all(0 < len(scores) <= 24 for scores in run.results.values())


def test_bm25_needs_no_model(index: Path, tmp_path: Path, command_line: CommandLine) -> None:
    unloaded = ["--model", tmp_path / "nowhere"]
    assert len(found_ids(command_line("search", index, "river", "--mode", "bm25").out)) == 5
    assert "this search is by bm25 alone" in command_line.refused("search", index, "river", *BM25, *unloaded)
    assert "no such model" in command_line.refused("search", index, "river", *unloaded)
    words = write_store(lambda: [Passage("a", "river")], None, tmp_path / "words", source={})
    build_index(words, tmp_path / "index", bm25="en")
    assert "this search is by bm25 alone" in command_line.refused("search", tmp_path / "index", "river", *unloaded)


def test_the_default_is_hybrid_by_min_max_and_weights_reach_it(index: Path, command_line: CommandLine) -> None:
    def found(*options: str) -> list[str]:
        return found_ids(command_line("search", index, "river stone bridge", "--depth", 4, *options, *CPU).out)

    assert found() == found("--mode", "hybrid", "--fusion", "min-max")
    assert found("--weight", "dense=0", "--fusion", "rrf") == found("--mode", "bm25")


def test_nothing_found_is_said(index: Path, command_line: CommandLine) -> None:
    done = command_line("search", index, "zygote", "--mode", "bm25")
    assert (done.code, done.out) == (0, "Nothing found: no passage shares a word with the question.\n")


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of two files, one with three passages, that lie in ``files``."""
    home = tmp_path_factory.mktemp("documents")
    (home / "files").mkdir()
    passages = []
    for name, year, texts in (("a.md", 2019, ["river llama", "the llama wool", "camel"]), ("b.md", 2021, ["llama"])):
        (home / "files" / name).write_text("\n".join(texts), encoding="utf-8")
        for line, text in enumerate(texts, start=1):
            place = Place(name, 10 * line, 10 * line + len(text), line, line)
            passages.append(Passage(f"{name}#{line}", text, name.upper(), place, {"year": year}))
    source = {"corpus": str(home / "files")}
    store = write_store(lambda: passages, CountingEncoder(), home / "store", source=source)
    build_index(store, home / "index", bm25="en")
    return home / "index"


BM25 = ["--mode", "bm25"]


def test_answers_are_grouped_by_document_unless_asked_otherwise(documents: Path, command_line: CommandLine) -> None:
    done = command_line("search", documents, "llama wool", *BM25)
    assert found_ids(done.out) == ["a.md:2", "b.md:1"]
    assert done.out.splitlines()[2] == "     also: line 1"
    assert found_ids(command_line("search", documents, "llama wool", *BM25, "--no-group").out) == [
        "a.md:2", "b.md:1", "a.md:1",
    ]  # fmt: skip
    answer = json.loads(command_line("search", documents, "llama wool", *BM25, "--json", "--depth", 1).out)
    assert [hit["location"] for hit in answer["hits"]] == ["a.md:2"]
    assert (answer["query"], answer["mode"], answer["where"]) == ("llama wool", "bm25", None)


def test_a_filter_restricts_questions_and_runs(
    documents: Path, tmp_path: Path, queries: Path, command_line: CommandLine
) -> None:
    assert found_ids(command_line("search", documents, "llama", *BM25, "--where", "year>2020").out) == ["b.md:1"]
    run = ["--queries", queries, "--run", tmp_path / "x.trec", "--where", 'path ~ "a.md" and year < 2020']
    assert command_line("search", documents, *BM25, *run).code == 0
    assert read_run(tmp_path / "x.trec").results["q1"].keys() == {"a.md#1"}
    for where, reason in (
        ("year > 3000", "no passage matches the filter."),
        ("page is null and year = 2021", "no passage that matches the filter shares a word with the question."),
    ):
        done = command_line("search", documents, "camel", *BM25, "--where", where)
        assert (done.code, done.out) == (0, f"Nothing found: {reason}\n")
    line = command_line.refused("search", documents, "llama", "--where", "yaer > 2020")
    assert "where: unknown field 'yaer'; did you mean year? the fields are id, title, path, page, year" in line


def test_the_best_answer_is_opened(
    documents: Path, tmp_path: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor = tmp_path / "vim"
    editor.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path / "called"}\n')
    editor.chmod(0o755)
    monkeypatch.setenv("VISUAL", str(editor))
    done = command_line("search", documents, "wool", *BM25, "--open")
    assert (done.code, found_ids(done.out)) == (0, ["a.md:2"])
    assert (tmp_path / "called").read_text().splitlines() == [
        "+2",
        str((documents.parent / "files" / "a.md").resolve()),
    ]


def test_an_empty_question_never_waits_for_input(
    index: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("river\n\ncastle\n"))
    for empty in ("", "  "):
        assert "the question is empty" in command_line.refused("search", index, empty)
    # Without a question, questions are read up to an empty line.
    assert len(found_ids(command_line("search", index, "--mode", "bm25").out)) == 5


def test_overwrite_replaces_a_run_and_nothing_else(
    index: Path, queries: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    run, notes = tmp_path / "x.trec", tmp_path / "notes.jsonl"
    command = ["search", index, "--mode", "bm25", "--queries", queries, "--overwrite", *CPU, "--run"]
    assert command_line(*command, run).code == 0
    first = run.read_bytes()
    assert command_line(*command, run).code == 0
    assert run.read_bytes() == first
    notes.write_text('{"_id": "n1", "text": "what is wing"}\n', encoding="utf-8")  # six words
    asked, inside = queries.read_bytes(), index / "new.trec"
    assert "is the output itself" in command_line.refused(*command, queries)
    assert "does not hold a TREC run" in command_line.refused(*command, notes)
    assert "lies inside the input" in command_line.refused(*command, inside)
    assert queries.read_bytes() == asked
    assert notes.read_text(encoding="utf-8").startswith('{"_id": "n1"')
    assert not inside.exists()


def test_an_id_that_a_run_cannot_hold_is_told_before_the_search(
    index: Path, queries: Path, tmp_path: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("searched")

    monkeypatch.setattr(Retriever, "search", never)
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps({"_id": "q 1", "text": "river"}) + "\n", encoding="utf-8")
    line = command_line.refused("search", index, "--queries", bad, "--run", tmp_path / "x.trec")
    assert "the query 'q 1' holds a space or" in line
    spaced = write_store(lambda: [Passage("Lake Garda", "river")], CountingEncoder(), tmp_path / "spaced", source={})
    line = command_line.refused("search", spaced.path, "--queries", queries, "--run", tmp_path / "x.trec")
    assert "the passage 'Lake Garda' holds a space or" in line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--mode", "lexical"], "unknown search mode 'lexical'"),
        (["--mode", "bm25"], "only by dense; add it: `llama2vec index STORE -o INDEX --bm25`"),
        (["--mode", "dense", "--fusion", "rrf"], "use them with --mode hybrid"),
        (["--fusion", "rrf"], "this search is by dense alone; use them with --mode hybrid"),
        (["--weight", "dense=2"], "this search is by dense alone; use them with --mode hybrid"),
        (["--queries", "q.tsv", "--run", "x.trec"], "the question has no meaning with --queries and --run"),
        (["--overwrite"], "--overwrite has no meaning without --queries and --run"),
        (["--mode", "hybrid", "--weight", "dense"], "--weight dense: write a mode and a number"),
        (["--mode", "hybrid", "--weight", "titles=2"], "unknown mode 'titles'"),
        (["--mode", "hybrid", "--fusion", "sum"], "unknown fusion 'sum'; choose one of min-max, rrf"),
        (["--mode", "hybrid", "--weight", "dense=2", "--weight", "dense=3"], "dense has the weight 2 already"),
        (["--mode", "hybrid", "--weight", "dense=-1"], "fusion weights must be at least 0"),
        (["--mode", "hybrid", "--weight", "dense=nan"], "fusion weights must be at least 0"),
        (["--queries", "q.tsv"], "--queries and --run belong together"),
        (["--where", "1"], "where: names no field"),
    ],
)
def test_wrong_searches_are_one_line(store: Path, command_line: CommandLine, options: list[str], words: str) -> None:
    assert words in command_line.refused("search", store, "river", *options, *CPU)


def test_queries_that_find_nothing_are_counted_and_a_run_needs_one_that_does(
    documents: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    asked, run = tmp_path / "queries.tsv", tmp_path / "run.trec"
    asked.write_text("q1\tllama\nq2\tzygote\n", encoding="utf-8")
    call = ["search", documents, *BM25, "--queries", asked, "--run", run]
    assert "--no-group has no meaning with --queries and --run" in command_line.refused(*call, "--no-group")
    line = command_line.refused(*call, "--where", "year > 3000")
    assert line.endswith("run.trec was not written, because nothing was found: no passage matches the filter")
    assert command_line(*call).out == f"Searched 2 queries, 1 of which found nothing, to depth 1,000: {run}\n"
    assert list(read_run(run).results) == ["q1"]
    asked.write_text("q2\tzygote\n", encoding="utf-8")
    line = command_line.refused(*call, "--overwrite")
    assert line.endswith("because nothing was found: no passage shares a word with a query")


@pytest.mark.parametrize("option", ["--json", "--open"])
def test_an_option_for_one_question_needs_a_question(store: Path, command_line: CommandLine, option: str) -> None:
    assert f"{option} needs a question" in command_line.refused("search", store, option, *CPU)


def test_queries_without_text_are_counted(
    index: Path, tmp_path: Path, command_line: CommandLine, caplog: pytest.LogCaptureFixture
) -> None:
    asked = tmp_path / "queries.jsonl"
    asked.write_text('{"_id": "q", "text": ""}\n{"_id": "r", "text": "river"}\n', encoding="utf-8")
    done = command_line("search", index, "--queries", asked, "--run", tmp_path / "run.trec", *CPU)
    assert done.code == 0, done.err
    warning = f"{asked}: 1 query ('q') has no text, and its ranking means nothing; write or remove it"
    assert [line for line in caplog.messages if "no text" in line] == [warning]


def test_a_search_by_bm25_says_nothing_of_vectors_that_are_missing(
    tmp_path: Path, command_line: CommandLine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "llama2vec")
    store = write_store(lambda: [Passage("a", "river")], None, tmp_path / "words", source={})
    build_index(store, tmp_path / "index", bm25="en")
    assert command_line("search", tmp_path / "index", "river").code == 0
    assert "has no vectors" in caplog.text
    caplog.clear()
    assert command_line("search", tmp_path / "index", "river", "--mode", "bm25").code == 0
    assert "vectors" not in caplog.text


@pytest.mark.parametrize("name", ["index.json", "part.json", "store.json", "documents.json"])
def test_a_file_that_may_not_be_read_is_named_with_the_systems_reason(
    command_line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder, index = write(tmp_path / "docs", {"a.txt": "soft wool"}), tmp_path / "index"
    sync(folder, index)
    read_bytes = Path.read_bytes

    def refused(path: Path) -> bytes:
        if path.name == name:
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", refused)
    asked = ("remove", index, "a.txt") if name == "documents.json" else ("search", index, "wool")
    told = command_line.refused(*asked)
    assert f"{name} cannot be read (Permission denied); check permissions and disk" in told or (
        f"{name}: Permission denied; check permissions and disk" in told
    )
    assert "build the index again" not in told
    assert "free space" not in told
