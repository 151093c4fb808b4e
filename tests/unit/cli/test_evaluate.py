"""``llama2vec evaluate``, down to its exit code."""

from __future__ import annotations

import json
from dataclasses import astuple
from pathlib import Path

import ir_measures
import pytest
from running import CommandLine

from llama2vec.data.tasks.trec import read_qrels, write_run
from llama2vec.records import Run

DATA = Path(__file__).resolve().parents[3] / "../shared/data"


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
    folder: Path, tmp_path: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA2VEC_DATA", str(tmp_path / "data"))
    command = ["evaluate", "bm25", "--task", "beir/scifact", "--task", folder, "-o", tmp_path / "out"]
    code, out, _ = astuple(command_line(*command))
    assert code == 0
    assert "beir/scifact" in out
    assert "scifact/test" in out
    assert out.splitlines()[-1] == f"Scored 2 tasks: {tmp_path / 'out'}"
    code, out, _ = astuple(command_line(*command))
    assert code == 0
    assert out.splitlines()[-1] == f"All tasks were already scored: {tmp_path / 'out'}"
    assert out.count("kept") == 2
    with (folder / "corpus.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"_id": "new", "text": "x"}\n')
    code, out, err = astuple(command_line(*command))
    assert (code, out) == (2, "")
    assert len([line for line in err.splitlines() if line.startswith("llama2vec: ")]) == 1
    assert "the corpus changed since" in err
    assert "Traceback" not in err
    assert command_line(*command, "--overwrite").code == 0


def test_a_store_that_encode_made_is_scored_as_it_is(
    folder: Path, tmp_path: Path, llama_folder: Path, command_line: CommandLine
) -> None:
    stores = tmp_path / "stores"
    command = ["evaluate", llama_folder, "--task", folder, "--set", f"stores={stores}", "-o", tmp_path / "out"]
    assert command_line("encode", llama_folder, folder, "-o", stores / "mine", "--shard-size", 5).code == 0
    assert command_line(*command).code == 0
    assert [path.name for path in stores.iterdir()] == ["mine"]


def test_a_model_is_scored_on_documents_cut_into_windows(
    folder: Path, tmp_path: Path, llama_folder: Path, command_line: CommandLine
) -> None:
    command = ["evaluate", llama_folder, "--task", "beir/scifact", "--data-root", tmp_path / "data"]
    command += [
        "--set",
        "windows=maxp",
        "--set",
        "window_tokens=24",
        "--set",
        "stride=12",
        "--dtype",
        "float32",
        "--device",
        "cpu",
    ]
    command += ["--name", "tiny", "--set", f"stores={tmp_path / 'stores'}"]
    assert command_line(*command, "--set", "encode_only=true").code == 0
    command += ["-o", tmp_path / "out"]
    line = command_line.refused(*command, "--set", "encode_only=true")
    assert "encode_only=true writes no scores; leave out --output and --overwrite" in line
    assert not (tmp_path / "out").exists()
    code, out, _ = astuple(command_line(*command))
    assert code == 0
    assert f"Scored 1 task: {tmp_path / 'out'}" in out
    saved = json.loads((tmp_path / "out" / "beir-scifact.json").read_text(encoding="utf-8"))
    assert saved["settings"]["windows"] == {"kind": "maxp", "tokens": 24, "stride": 12}
    assert saved["settings"]["prompts"]["self_prompt"]
    [store] = (tmp_path / "stores").iterdir()
    assert json.loads((store / "store.json").read_text(encoding="utf-8"))["passages"] > 24


def test_a_model_is_scored_together_with_bm25(
    folder: Path, tmp_path: Path, llama_folder: Path, command_line: CommandLine
) -> None:
    command = ["evaluate", llama_folder, "--task", "beir/scifact", "--data-root", tmp_path / "data", "--mode", "hybrid"]
    code, _, err = astuple(command_line(*command, "--dtype", "float32", "--device", "cpu", "-o", tmp_path / "out"))
    assert code == 0, err
    saved = json.loads((tmp_path / "out" / "beir-scifact.json").read_text(encoding="utf-8"))
    assert saved["system"] == f"{llama_folder}+bm25"
    assert saved["settings"]["search"]["mode"] == "hybrid"
    # The queries are the first words of their passages: BM25 alone finds all of them.
    assert saved["metrics"]["nDCG@10"] > 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["model", "--mode", "sparse"],
            "--mode sparse: choose dense or hybrid; for BM25 alone, give bm25",
        ),
        (["bm25", "--mode", "hybrid"], "--mode hybrid joins BM25 with a model's vectors; give a model"),
    ],
)
def test_a_mode_that_does_not_fit_is_refused(arguments: list[str], message: str, command_line: CommandLine) -> None:
    code, out, err = astuple(command_line("evaluate", *arguments, "--task", "beir/scifact"))
    assert (code, out) == (2, "")
    assert message in err


def test_the_prompts_of_a_raw_model_are_chosen_by_name(
    folder: Path, llama_folder: Path, command_line: CommandLine
) -> None:
    command = ["evaluate", llama_folder, "--task", folder, "--dtype", "float32", "--device", "cpu", "-o"]
    scores = []
    for prompts in ("one-word", "last-token"):
        out = folder.parent / prompts
        done = command_line(*command, out, "--set", f"prompts={prompts}", "--set", "passage_max_tokens=32")
        assert done.code == 0, done.err
        scores.append(json.loads(next(out.glob("*.json")).read_bytes())["settings"])
    assert scores[0] != scores[1]
    assert "no recipe called 'nope'" in command_line.refused(*command, folder.parent / "no", "--set", "prompts=nope")
    bm25 = ["evaluate", "bm25", "--task", folder, "-o", folder.parent / "no", "--set", "prompts=paper"]
    assert "prompts" in command_line.refused(*bm25)


def test_scores_without_a_folder_are_only_shown(folder: Path, tmp_path: Path, command_line: CommandLine) -> None:
    before = sorted(tmp_path.rglob("*"))
    code, out, _ = astuple(command_line("evaluate", "bm25", "--task", folder))
    assert code == 0
    assert "nDCG@10" in out
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_without_a_folder_is_warned_that_an_interruption_loses_the_work(
    folder: Path, tmp_path: Path, llama_folder: Path, command_line: CommandLine, caplog: pytest.LogCaptureFixture
) -> None:
    command = ["evaluate", llama_folder, "--task", folder, "--dtype", "float32", "--device", "cpu"]
    warning = "without --output nothing is kept: after an interruption, all texts are encoded again"
    assert command_line(*command).code == 0
    assert warning in caplog.messages
    caplog.clear()
    assert command_line(*command, "--set", f"stores={tmp_path / 'stores'}").code == 0
    assert command_line("evaluate", "bm25", "--task", folder).code == 0
    assert warning not in caplog.messages


def test_settings_that_have_an_option_of_their_own_may_be_set_as_well(
    folder: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    command = ["evaluate", "bm25", "--task", "beir/scifact", "-o", tmp_path / "out", "--metric", "R@1"]
    command += ["--set", "depth=1", "--set", f"data_root={tmp_path / 'data'}"]
    assert command_line(*command).code == 0
    saved = json.loads((tmp_path / "out" / "beir-scifact.json").read_text(encoding="utf-8"))
    assert (saved["settings"]["depth"], list(saved["metrics"])) == (1, ["R@1"])


def test_the_data_root_is_given_once(
    folder: Path, tmp_path: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["evaluate", "bm25", "--task", "beir/scifact", "--set", f"data_root={tmp_path / 'data'}"]
    assert "different values; drop one of them" in command_line.refused(*command, "--data-root", tmp_path)
    assert command_line(*command, "--data-root", tmp_path / "data").code == 0
    # The environment is the default.
    monkeypatch.setenv("LLAMA2VEC_DATA", str(tmp_path / "nowhere"))
    assert command_line(*command).code == 0


def test_settings_that_would_change_nothing_are_refused(
    folder: Path, tmp_path: Path, command_line: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("llama2vec.cli.evaluate.load_encoder", loaded)
    run, pairs = tmp_path / "a.trec", tmp_path / "pairs.tsv"
    run.write_text("q0 Q0 p0 1 1.0 a\n", encoding="utf-8")
    pairs.write_text("sentence1\tsentence2\tscore\na\tb\t1\na\tc\t0\n", encoding="utf-8")
    for model, what in (("bm25", "bm25"), (run, "a run")):
        call = ["evaluate", model, "--task", folder]
        assert f"--dtype belongs to a model, and this is {what}; leave it out" in command_line.refused(
            *call, "--dtype", "float32"
        )
        assert f"--device belongs to a model, and this is {what}; leave it out" in command_line.refused(
            *call, "--device", "cpu"
        )
        stores = ["--set", f"stores={tmp_path / 'stores'}"]
        assert f"vectors of a model; leave it out for {what}" in command_line.refused(*call, *stores)
    for model, what in ((run, "a run"), ("model", "vectors alone")):
        line = command_line.refused("evaluate", model, "--task", folder, "--set", "language=de")
        assert f"language=de is that of BM25's words; leave it out for {what}" in line
    for option, value in (("--metric", "pearson"), ("--metric", "nDCG@10"), ("--depth", 5)):
        line = command_line.refused("evaluate", "model", "--task", pairs, option, value)
        assert "sentence pairs are scored by spearman and pearson" in line
    encode = ["--set", "encode_only=true", "--set", f"stores={tmp_path / 'stores'}"]
    assert "sentence pairs have no corpus" in command_line.refused("evaluate", "model", "--task", pairs, *encode)
    for call in (["my model"], ["model", "--name", "my model"]):
        line = command_line.refused("evaluate", *call, "--task", folder)
        assert "--name: the name of the system 'my model' holds a space" in line


def test_a_depth_below_what_a_metric_needs_is_refused(folder: Path, command_line: CommandLine) -> None:
    call = ["evaluate", "bm25", "--task", folder, "--metric", "R@100", "--metric", "nDCG@2"]
    line = command_line.refused(*call, "--depth", 3)
    assert "depth 3 is less than R@100 needs; raise it (--depth" in line
    assert line.rstrip().endswith("or ask for R@3")
    assert command_line(*call, "--depth", 100).code == 0


def test_a_small_depth_leaves_out_the_deeper_metrics_of_the_task_and_says_which(
    folder: Path, command_line: CommandLine, caplog: pytest.LogCaptureFixture
) -> None:
    call = ["evaluate", "bm25", "--task", folder, "--depth"]
    with caplog.at_level("INFO"):
        done = command_line(*call, 20)
    assert done.code == 0
    assert "left out R@100, because the depth is 20" in caplog.text
    assert "R@100" not in done.out
    assert "nDCG@10" in done.out
    line = command_line.refused(*call, 5)
    assert "depth 5 is less than nDCG@10, MRR@10 and R@100 need" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m", "--task", "beir/scfact"], "unknown task or folder 'beir/scfact'; did you mean 'beir/scifact'?"),
        (["bm25", "--task", "sts/stsb"], "sts/stsb: bm25 does not score sentence pairs"),
        (["bm25", "--task", "beir/scifact", "--set", "windows=sump"], "windows"),
        (["bm25", "--task", "beir/scifact", "--set", "widnows=maxp"], "widnows"),
        (["bm25", "--task", "beir/scifact", "--set", "encode_only=true"], "encode_only needs a model and a folder"),
        (["bm25", "--task", "beir/scifact", "--metric", "nDGC@10"], "no metric 'nDGC@10' (did you mean nDCG?)"),
    ],
)
def test_arguments_that_do_not_fit_are_one_line_and_write_nothing(
    arguments: list[str], message: str, command_line: CommandLine, folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    code, out, err = astuple(command_line("evaluate", *arguments))
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(not DATA.is_dir(), reason=f"the shared data sets are not at {DATA}")
def test_bm25_has_its_documented_scores_on_a_real_set(tmp_path: Path, command_line: CommandLine) -> None:
    assert command_line("evaluate", "bm25", "--task", f"{DATA}/cranfield:test_smart", "-o", tmp_path / "out").code == 0
    saved = json.loads((tmp_path / "out" / "cranfield-test_smart.json").read_text(encoding="utf-8"))["metrics"]
    assert (saved["nDCG@10"], saved["R@100"]) == (pytest.approx(0.512, abs=5e-4), pytest.approx(0.749, abs=5e-4))


def test_prompts_are_an_option_as_everywhere_and_a_setting_as_before(
    folder: Path, tmp_path: Path, llama_folder: Path, command_line: CommandLine
) -> None:
    command = ["evaluate", llama_folder, "--task", folder, "--dtype", "float32", "--device", "cpu"]
    facts = []
    for name, choice in {"a": ["--prompts", "echo"], "b": ["--set", "prompts=echo"], "c": []}.items():
        done = command_line(*command, *choice, "-o", tmp_path / name, "--name", "one")
        assert done.code == 0, done.err
        (result,) = (tmp_path / name).glob("*.json")
        facts.append(json.loads(result.read_text(encoding="utf-8"))["settings"]["contract_hash"])
    assert facts[0] == facts[1] != facts[2]
    message = command_line.refused(*command, "--prompts", "echo", "--set", "prompts=released")
    assert "--prompts echo and --set prompts=released give prompts different values" in message
    assert "this is bm25; leave it out" in command_line.refused(
        "evaluate", "bm25", "--task", folder, "--prompts", "echo"
    )


def test_a_given_run_scores_as_trec_eval_scores_it_and_by_id_when_asked(
    folder: Path, tmp_path: Path, command_line: CommandLine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "llama2vec")
    found, judged = tmp_path / "found.trec", read_qrels(folder / "qrels" / "test.tsv")
    (relevant,) = judged["q0"]
    names = sorted({relevant, *(name for gains in judged.values() for name in gains)})
    write_run(Run({query: dict.fromkeys(names, 0.1) for query in judged}, "tied"), found)
    metrics = [ir_measures.parse_measure(name) for name in ("nDCG@10", "AP")]
    for ties in ("trec_eval", "id"):
        chosen = [] if ties == "trec_eval" else ["--set", "ties=id"]
        options = ["--task", folder, "--metric", "nDCG@10", "--metric", "AP", *chosen]
        done = command_line("evaluate", found, *options, "-o", tmp_path / ties)
        assert done.code == 0
        assert "run 'tied' has equal scores above the cutoffs (of 4 queries: nDCG@10 4, AP 4)" in caplog.text
        result = json.loads((tmp_path / ties / "scifact-test.json").read_text(encoding="utf-8"))
        given = found if ties == "trec_eval" else tmp_path / ties / "scifact-test.trec"
        expected = ir_measures.calc_aggregate(metrics, judged, [*ir_measures.read_trec_run(str(given))])
        assert result["metrics"] == pytest.approx({str(name): value for name, value in expected.items()}, abs=1e-12)
        assert result["settings"].get("ties") == (ties if ties == "trec_eval" else None)
        # The run that was kept scores the same again.
        kept = tmp_path / ties / "scifact-test.trec"
        assert command_line("evaluate", kept, *options, "-o", tmp_path / f"{ties}-again").code == 0
        again = json.loads((tmp_path / f"{ties}-again" / "scifact-test.json").read_text(encoding="utf-8"))
        assert again["metrics"] == result["metrics"]
    assert "ties=id orders the equal scores of a run; leave it out for bm25" in command_line.refused(
        "evaluate", "bm25", "--task", folder, "--set", "ties=id"
    )


def test_trec_eval_gives_our_own_runs_the_numbers_that_are_shown(
    folder: Path, tmp_path: Path, command_line: CommandLine
) -> None:
    rows = [{"_id": f"t{n}", "text": "the same words"} for n in range(30)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "words"}\n', encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text("q\tt10\t1\nq\tt2\t2\n", encoding="utf-8")
    options = ["--task", folder, "--metric", "nDCG@10", "--metric", "AP", "-o", tmp_path / "out"]
    assert command_line("evaluate", "bm25", *options).code == 0
    shown = json.loads((tmp_path / "out" / "scifact-test.json").read_text(encoding="utf-8"))["metrics"]
    metrics = [ir_measures.parse_measure(name) for name in shown]
    run = [*ir_measures.read_trec_run(str(tmp_path / "out" / "scifact-test.trec"))]
    found = ir_measures.calc_aggregate(metrics, read_qrels(folder / "qrels" / "test.tsv"), run)
    assert {str(name): value for name, value in found.items()} == pytest.approx(shown, abs=1e-12)


def test_a_model_is_one_system_however_its_folder_is_written(
    folder: Path, tmp_path: Path, command_line: CommandLine, llama_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tuned").symlink_to(llama_folder)
    names = ["tuned", "./tuned", "tuned/", tmp_path / "tuned"]
    for name in names:
        done = command_line("evaluate", name, "--task", folder, "-o", "out", "--dtype", "float32", "--device", "cpu")
        assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "All tasks were already scored: out"
    assert json.loads((tmp_path / "out" / "scifact-test.json").read_text(encoding="utf-8"))["system"] == "tuned"
