"""`index --bm25 --sparse`, `search --mode` and `explain`, with a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llama2vec.cli import main
from llama2vec.data.trec import read_run
from llama2vec.model.encoder import Encoder
from llama2vec.retrieve.modes import Retriever

CPU = ["--dtype", "float32", "--device", "cpu"]
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Cli:
    def run(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return int(stopped.value.code or 0), out, err

    return run


@pytest.fixture(scope="module")
def store(llama_folder: Path, corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("modes") / "store"
    with pytest.raises(SystemExit) as stopped:
        main(["encode", str(llama_folder), str(corpus_file), "-o", str(folder), "--set", "passage_max_tokens=48", *CPU])
    assert not stopped.value.code
    return folder


@pytest.fixture(scope="module")
def index(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("modes") / "index"
    with pytest.raises(SystemExit) as stopped:
        main(["index", str(store), "-o", str(folder), "--bm25", "--sparse", *CPU])
    assert not stopped.value.code
    return folder


def test_an_index_says_what_was_made_and_modes_are_added(store: Path, tmp_path: Path, cli: Cli) -> None:
    assert cli("index", store, "-o", tmp_path / "i")[1] == f"Indexed 24 passages [exact] to {tmp_path / 'i'}\n"
    assert "[bm25] to" in cli("index", store, "-o", tmp_path / "i", "--bm25")[1]
    code, out, err = cli("index", store, "-o", tmp_path / "i", "--bm25", "--sparse", *CPU)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("llama2vec: ")
    assert "bm25 is there already; pass --overwrite" in err
    assert "[sparse] to" in cli("index", store, "-o", tmp_path / "i", "--sparse", *CPU)[1]


@pytest.mark.parametrize("mode", ["dense", "bm25", "sparse", "hybrid"])
def test_each_mode_answers_a_question_and_writes_a_run(index: Path, tmp_path: Path, cli: Cli, mode: str) -> None:
    code, out, _ = cli("search", index, "river stone bridge", "--mode", mode, "--depth", 3, *CPU)
    assert code == 0
    assert sum(line.lstrip()[:2] in ("1.", "2.", "3.") for line in out.splitlines()) == 3
    queries = tmp_path / "queries.tsv"
    queries.write_text("q1\triver stone\nq2\tmarket\n", encoding="utf-8")
    options = ["--mode", mode, "--queries", queries, "--run", tmp_path / "x.trec", "--depth", 5, *CPU]
    assert cli("search", index, *options)[0] == 0
    run = read_run(tmp_path / "x.trec")
    assert run.tag == ("llama2vec" if mode == "dense" else f"llama2vec-{mode}")
    assert set(run.results) == {"q1", "q2"}
    assert all(0 < len(scores) <= 5 for scores in run.results.values())


def test_the_command_finds_what_the_library_finds(index: Path, llama_folder: Path, cli: Cli) -> None:
    from llama2vec.config import EncoderSettings, ModelSettings

    settings = ModelSettings(dtype="float32", device="cpu")
    encoder = Encoder.load(llama_folder, settings=settings, encoder=EncoderSettings(passage_max_tokens=48))
    expected = [hit.passage.id for hit in Retriever.open(index, encoder).hits("castle garden", "sparse", 4)]
    out = cli("search", index, "castle garden", "--mode", "sparse", "--depth", 4, *CPU)[1]
    assert [line.split()[2] for line in out.splitlines() if line.lstrip()[1:2] == "."] == expected


def test_weights_of_a_fusion_reach_the_search(index: Path, cli: Cli) -> None:
    def found(*options: str) -> list[str]:
        out = cli("search", index, "river stone bridge", "--depth", 4, *options, *CPU)[1]
        return [line.split()[2] for line in out.splitlines() if line.lstrip()[1:2] == "."]

    only_bm25 = ["--mode", "hybrid", "--weight", "dense=0", "--weight", "sparse=0"]
    assert found(*only_bm25, "--fusion", "z-score") == found("--mode", "bm25")


def test_unless_told_a_search_is_hybrid_where_the_index_has_bm25(index: Path, tmp_path: Path, cli: Cli) -> None:
    queries = tmp_path / "queries.tsv"
    queries.write_text("q1\triver stone\nq2\tmarket\n", encoding="utf-8")
    for name, options in (("unless-told", []), ("hybrid", ["--mode", "hybrid", "--fusion", "min-max"])):
        code, _, err = cli("search", index, *options, "--queries", queries, "--run", tmp_path / name, *CPU)
        assert code == 0, err
    assert read_run(tmp_path / "unless-told") == read_run(tmp_path / "hybrid")
    assert read_run(tmp_path / "hybrid").tag == "llama2vec-hybrid"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--mode", "lexical"], "no search mode 'lexical'"),
        (
            ["--mode", "bm25"],
            "cannot be searched by bm25, only by dense; add it: `llama2vec index STORE -o INDEX --bm25`",
        ),
        (["--mode", "hybrid"], "--bm25 or --sparse"),
        (["--fusion", "z-score"], "need --mode hybrid"),
        (["--mode", "hybrid", "--weight", "dense"], "--weight dense: write a mode and a number"),
        (["--mode", "hybrid", "--weight", "titles=2"], "no mode 'titles' to weigh"),
        (["--mode", "hybrid", "--fusion", "sum"], "no fusion 'sum'; choose one of rrf, min-max, z-score"),
    ],
)
def test_wrong_searches_are_one_line(store: Path, cli: Cli, options: list[str], words: str) -> None:
    code, out, err = cli("search", store, "river", *options, *CPU)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


def test_a_language_that_is_no_code_is_one_line_and_writes_nothing(store: Path, tmp_path: Path, cli: Cli) -> None:
    code, _, err = cli("index", store, "-o", tmp_path / "i", "--bm25", "--language", "english")
    assert code == 2
    assert "--language: 'english' is not an ISO 639 code; write en" in err
    assert not (tmp_path / "i").exists()


def test_explain_shows_both_sides_the_match_and_the_evidence(llama_folder: Path, cli: Cli) -> None:
    options = ["--query", "river stone", "--passage", "The river is wide. The castle is old.", "--top", 5, "--evidence"]
    code, out, _ = cli("explain", llama_folder, *options, *CPU)
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("dense cosine ")
    assert "query stands for" in lines[2]
    assert "passage stands for" in lines[2]
    assert any(line.startswith("the match") for line in lines)
    assert sum(line.lstrip()[:1] in "+-" and "The " in line for line in lines) == 2
    assert "█" in out


def test_explain_as_json_adds_up(llama_folder: Path, cli: Cli) -> None:
    options = ["-q", "river stone", "-p", "The river is wide.", "--json"]
    found = json.loads(cli("explain", llama_folder, *options, *CPU)[1])
    assert found["sparse"] == pytest.approx(sum(word["contribution"] for word in found["shared"]))
    assert {"word", "query_weight", "passage_weight", "contribution"} == set(found["shared"][0])
    assert len(found["query_words"]) == 12 >= len(found["passage_words"]) > 0
    assert (found["query"], found["evidence"]) == ("river stone", [])


def test_wrong_explanations_are_one_line(llama_folder: Path, cli: Cli) -> None:
    code, _, err = cli("explain", llama_folder, "-q", " ", "-p", "x", *CPU)
    assert (code, "--query is empty" in err) == (2, True)
    code, _, err = cli("explain", llama_folder, "-q", "x", "-p", "y", "--set", "pooling=mean", *CPU)
    assert (code, "pooling=slots" in err) == (2, True)
    assert err.count("\n") == 1
