"""``llama2vec evaluate --task``, down to its exit code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llama2vec.cli import main

DATA = Path(__file__).resolve().parents[3] / "../shared/data"


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process; return exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        code = stopped.value.code
        return (code if isinstance(code, int) else 0), out, err

    return run


@pytest.fixture
def folder(tmp_path: Path, corpus_rows: list[dict[str, str]]) -> Path:
    """A BEIR folder at ``beir/scifact`` below a data root; its passages stand in their own place."""
    place = tmp_path / "data" / "beir" / "scifact"
    (place / "qrels").mkdir(parents=True)
    (place / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in corpus_rows), encoding="utf-8")
    queries = "".join(json.dumps({"_id": f"q{n}", "text": corpus_rows[n]["text"][:60]}) + "\n" for n in range(4))
    (place / "queries.jsonl").write_text(queries, encoding="utf-8")
    lines = "".join(f"q{n}\t{corpus_rows[n]['_id']}\t1\n" for n in range(4))
    (place / "qrels" / "test.tsv").write_text(lines, encoding="utf-8")
    return place


def test_named_tasks_are_scored_into_a_folder_and_kept_the_second_time(
    folder: Path, tmp_path: Path, cli: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA2VEC_DATA", str(tmp_path / "data"))
    command = ["evaluate", "bm25", "--task", "beir/scifact", "--task", folder, "-o", tmp_path / "out"]
    code, out, _ = cli(*command)
    assert code == 0
    assert "beir/scifact" in out
    assert "scifact/test" in out
    assert out.splitlines()[-1] == f"Scored 2 tasks, kept 0: {tmp_path / 'out'}"
    code, out, _ = cli(*command)
    assert code == 0
    assert out.splitlines()[-1] == f"Scored 0 tasks, kept 2: {tmp_path / 'out'}"
    assert out.count("kept") == 3
    with (folder / "corpus.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"_id": "new", "text": "x"}\n')
    code, out, err = cli(*command)
    assert (code, out) == (2, "")
    assert len([line for line in err.splitlines() if line.startswith("llama2vec: ")]) == 1
    assert "the corpus of" in err
    assert "Traceback" not in err
    assert cli(*command, "--overwrite")[0] == 0


def test_a_model_is_scored_on_documents_cut_into_windows(
    folder: Path, tmp_path: Path, llama_folder: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    command = ["evaluate", llama_folder, "--task", "beir/scifact", "--data-root", tmp_path / "data"]
    command += ["--windows", "maxp", "--window-tokens", 24, "--stride", 12, "--dtype", "float32", "--device", "cpu"]
    command += ["--name", "tiny", "-o", tmp_path / "out"]
    assert cli(*command, "--store", tmp_path / "stores", "--encode-only")[0] == 0
    assert not (tmp_path / "out").exists()
    code, out, _ = cli(*command, "--store", tmp_path / "stores")
    assert code == 0
    assert "Scored 1 tasks" in out
    saved = json.loads((tmp_path / "out" / "beir-scifact.json").read_text(encoding="utf-8"))
    assert saved["settings"]["windows"] == {"kind": "maxp", "tokens": 24, "stride": 12}
    assert saved["settings"]["prompts"]["self_prompt"]
    [store] = (tmp_path / "stores").iterdir()
    assert json.loads((store / "store.json").read_text(encoding="utf-8"))["passages"] > 24


def test_a_model_is_scored_together_with_bm25(
    folder: Path, tmp_path: Path, llama_folder: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    command = ["evaluate", llama_folder, "--task", "beir/scifact", "--data-root", tmp_path / "data", "--mode", "hybrid"]
    code, _, err = cli(*command, "--dtype", "float32", "--device", "cpu", "-o", tmp_path / "out")
    assert code == 0, err
    saved = json.loads((tmp_path / "out" / "beir-scifact.json").read_text(encoding="utf-8"))
    assert saved["system"] == f"{llama_folder}+bm25"
    assert saved["settings"]["search"]["mode"] == "hybrid"
    # The queries are the first words of their passages: BM25 alone finds all of them.
    assert saved["metrics"]["nDCG@10"] > 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model", "--mode", "sparse"], "--mode sparse: choose dense or hybrid; BM25 alone is the model bm25"),
        (["bm25", "--mode", "hybrid"], "--mode hybrid joins BM25 with a model's vectors; give a model"),
    ],
)
def test_a_mode_that_does_not_fit_is_refused(
    arguments: list[str], message: str, cli: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = cli("evaluate", *arguments, "--task", "beir/scifact")
    assert (code, out) == (2, "")
    assert message in err


def test_scores_without_a_folder_are_only_shown(
    folder: Path, tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    code, out, _ = cli("evaluate", "bm25", "--task", folder)
    assert code == 0
    assert "nDCG@10" in out
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m", "--task", "beir/scfact"], "no task and no folder 'beir/scfact'; did you mean 'beir/scifact'?"),
        (["bm25", "--task", "sts/stsb"], "sts/stsb: bm25 does not score sentence pairs"),
        (["bm25", "--task", "beir/scifact", "--data", "x"], "give --task NAME, or either --data"),
        (["bm25", "--task", "beir/scifact", "--json", "x"], "--json belongs to --data and --sts"),
        (["bm25", "--task", "beir/scifact", "--windows", "sump"], "--windows sump: choose maxp or firstp"),
        (["bm25", "--data", "x", "--output", "y"], "belong to --task"),
        (["bm25", "--task", "beir/scifact", "--encode-only"], "give a model and --store"),
        (["bm25", "--task", "beir/scifact", "--measure", "nDGC@10"], "no measure 'nDGC@10' (did you mean nDCG?)"),
    ],
)
def test_arguments_that_do_not_fit_are_one_line_and_write_nothing(
    arguments: list[str], message: str, cli: Callable[..., tuple[int, str, str]], folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = cli("evaluate", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(not DATA.is_dir(), reason=f"the shared data sets are not at {DATA}")
def test_bm25_has_its_documented_scores_on_a_real_set(tmp_path: Path, cli: Callable[..., tuple[int, str, str]]) -> None:
    assert cli("evaluate", "bm25", "--task", f"{DATA}/cranfield:test_smart", "-o", tmp_path / "out")[0] == 0
    saved = json.loads((tmp_path / "out" / "cranfield-test_smart.json").read_text(encoding="utf-8"))["metrics"]
    assert (saved["nDCG@10"], saved["R@100"]) == (pytest.approx(0.512, abs=5e-4), pytest.approx(0.749, abs=5e-4))
