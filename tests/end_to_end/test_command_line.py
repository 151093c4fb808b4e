"""The command line from adaptation to scores, and one line for every mistake."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from running import CommandLine, Finished

from llama2vec.cli import main
from llama2vec.retrieve.store.reader import VectorStore
from llama2vec.score.results import read_result

pytestmark = pytest.mark.slow

SMALL = [
    "model.dtype=float32", "model.device=cpu", "model.lora.rank=4", "text.min_words=5", "text.max_words=20",
    "text.max_tokens=24", "optimizer.steps=4", "optimizer.batch_size=4", "optimizer.log_every=2",
    "optimizer.save_every=2", "encoder.passage_max_tokens=48", "encoder.query_max_tokens=24",
]  # fmt: skip
CPU = ["--dtype", "float32", "--device", "cpu"]


@pytest.fixture
def cli(command_line: CommandLine) -> CommandLine:
    return command_line


@pytest.fixture
def refused(command_line: CommandLine) -> Callable[..., str]:
    return command_line.refused


def sets(values: list[str]) -> list[str]:
    return [part for value in values for part in ("--set", value)]


@dataclass
class Work:
    """What the first three verbs made."""

    corpus: Path
    model: Path
    store: Path
    index: Path
    beir: Path
    sts: Path
    printed: dict[str, str]


def write_beir(folder: Path, rows: list[dict[str, str]], judged: dict[str, str]) -> Path:
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    queries = [{"_id": f"q{number}", "text": rows[number]["text"][:40]} for number in range(4)]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in queries), encoding="utf-8")
    lines = "".join(f"{query}\t{passage}\t1\n" for query, passage in judged.items())
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{lines}", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def work(
    llama_folder: Path, corpus_file: Path, corpus_rows: list[dict[str, str]], sentences: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Work:  # fmt: skip
    root = tmp_path_factory.mktemp("work")
    beir = write_beir(root / "tiny", corpus_rows, {f"q{number}": corpus_rows[number]["_id"] for number in range(4)})
    sts = root / "pairs.tsv"
    pairs = [f"{sentences[n]}\t{sentences[n + m]}\t{5 - m}\n" for n in range(0, 12, 3) for m in range(3)]
    sts.write_text("sentence1\tsentence2\tscore\n" + "".join(pairs), encoding="utf-8")
    made = Work(corpus_file, root / "model", root / "store", root / "index", beir, sts, {})
    commands: dict[str, list[object]] = {
        "adapt": ["adapt", "-o", made.model, "--corpus", corpus_file, "--model", llama_folder, *sets(SMALL)],
        "encode": ["encode", made.model, corpus_file, "-o", made.store, "--shard-size", 7, *CPU],
        "index": ["index", made.store, "-o", made.index],
    }
    printed = sys.stdout
    for name, command in commands.items():
        sys.stdout = caught = io.StringIO()
        try:
            with pytest.raises(SystemExit) as stopped:
                main([str(part) for part in command])
        finally:
            sys.stdout = printed
        assert not stopped.value.code, name
        made.printed[name] = caught.getvalue()
    return made


# ------------------------------------------------------------------------------------------------------ the whole way


def test_each_verb_ends_with_a_line_of_facts(work: Work, llama_folder: Path) -> None:
    assert work.printed["adapt"].startswith(f"Adapted {llama_folder} [D=32] in 4 steps, ")
    assert work.printed["encode"].startswith(f"Encoded 24 passages [D=32] to {work.store} in ")
    assert work.printed["index"] == f"Indexed 24 passages [exact] to {work.index}\n"
    _, *stacks = work.printed["adapt"].splitlines()
    assert stacks[0].startswith("opens in sentence-transformers")
    assert all(line.startswith("not in ") for line in stacks[1:])
    assert all(text.count("\n") == 1 for verb, text in work.printed.items() if verb != "adapt")


def test_adapt_leaves_the_manifest_log_curve_and_adapter(work: Work) -> None:
    names = {path.name for path in work.model.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "llama2vec.json", "manifest.json"} <= names
    assert {"log.jsonl", "loss.png", "adapter", "checkpoints"} <= names
    manifest = json.loads((work.model / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["stage"] == "adapt"
    assert manifest["settings"]["optimizer"]["steps"] == 4
    assert {"torch", "transformers", "llama2vec", "python"} <= manifest["versions"].keys()
    assert manifest["results"]["steps"] == 4
    assert not list(work.model.glob(".*"))


def test_a_question_is_answered_with_ranks_scores_and_texts(work: Work, cli: Callable[..., Finished]) -> None:
    finished = cli("search", work.index, "the river of the castle", "--depth", 3, *CPU)
    assert finished.code == 0
    heads = [line for line in finished.out.splitlines() if line.lstrip()[:2] in ("1.", "2.", "3.")]
    assert len(heads) == 3
    scores = [float(line.split()[1]) for line in heads]
    assert scores == sorted(scores, reverse=True)
    assert all(line.split()[2].startswith("doc") for line in heads)


def test_a_passages_own_text_finds_the_passage(
    work: Work, corpus_rows: list[dict[str, str]], cli: Callable[..., Finished], llama_folder: Path, tmp_path: Path
) -> None:
    # Query and passage share a prompt here, so the same text, uncut, has the very same vector.
    limits = sets(["query_max_tokens=200"])
    assert cli("encode", llama_folder, work.corpus, "-o", tmp_path / "store", *CPU, *limits).code == 0
    finished = cli("search", tmp_path / "store", corpus_rows[5]["text"], "--depth", 1, *CPU)
    assert finished.out.split()[1:3] == ["1.000", corpus_rows[5]["_id"]]


def test_questions_are_asked_at_a_prompt_until_an_empty_line(
    work: Work, cli: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    for typed in ("river\ncastle\n\nnever asked\n", "river\ncastle\n"):
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        finished = cli("search", work.index, "--depth", 1, *CPU)
        assert finished.code == 0
        assert finished.out.count("  1. ") == 2
        assert "? " in finished.err


def test_a_file_of_queries_becomes_a_trec_run(work: Work, cli: Callable[..., Finished], tmp_path: Path) -> None:
    run = tmp_path / "run.trec"
    ask = ["search", work.index, "--queries", work.beir, "--run", run, "--depth", 6, *CPU]
    finished = cli(*ask)
    assert finished.code == 0
    assert finished.out == f"Searched 4 queries to depth 6: {run}\n"
    rows = [line.split() for line in run.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 24
    assert {row[0] for row in rows} == {"q0", "q1", "q2", "q3"}
    assert [int(row[3]) for row in rows[:6]] == [1, 2, 3, 4, 5, 6]
    before = run.read_bytes()
    again = cli(*ask)
    assert again.code == 2
    assert "--overwrite" in again.err
    assert cli(*ask, "--overwrite").code == 0
    assert run.read_bytes() == before


def test_a_retrieval_task_is_scored_and_written(work: Work, cli: Callable[..., Finished], tmp_path: Path) -> None:
    folder = tmp_path / "scores"
    finished = cli("evaluate", work.model, "--task", work.beir, "-o", folder, "--name", "tiny-llama", *CPU)
    assert finished.code == 0
    assert "nDCG@10" in finished.out
    assert "tiny-llama" in finished.out
    stem = f"{work.beir.name}-test"
    assert sorted(path.name for path in folder.iterdir()) == [
        f"{stem}.json", f"{stem}.per-query.tsv", f"{stem}.trec"
    ]  # fmt: skip
    assert json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))["settings"]["contract_hash"]


def test_evaluate_and_search_give_the_same_scores(work: Work, cli: Callable[..., Finished], tmp_path: Path) -> None:
    from llama2vec.data.tasks.trec import read_qrels, read_run
    from llama2vec.score.metrics import evaluate_run

    command = ["evaluate", work.model, "--task", work.beir, "-o", tmp_path / "scores", "--metric", "MRR@10"]
    assert cli(*command, *CPU).code == 0
    run = tmp_path / "run.trec"
    assert cli("search", work.index, "--queries", work.beir, "--run", run, *CPU).code == 0
    expected = evaluate_run(
        read_run(run), read_qrels(work.beir / "qrels" / "test.tsv"), task="tiny/test", metrics=["MRR@10"]
    )
    found = read_result(tmp_path / "scores" / f"{work.beir.name}-test.json").report.metrics["MRR@10"]
    assert found == pytest.approx(expected.metrics["MRR@10"], abs=1e-4)


def test_sentence_similarity_is_scored(work: Work, cli: Callable[..., Finished], tmp_path: Path) -> None:
    finished = cli("evaluate", work.model, "--task", work.sts, "-o", tmp_path / "scores", *CPU)
    assert finished.code == 0
    assert "spearman" in finished.out.lower()
    [file] = (tmp_path / "scores").iterdir()
    assert set(read_result(file).report.metrics) == {"spearman", "pearson"}


def test_bm25_is_scored_without_a_model_and_finds_the_passages(work: Work, cli: Callable[..., Finished]) -> None:
    finished = cli("evaluate", "bm25", "--task", work.beir, "--metric", "R@100")
    assert finished.code == 0
    assert "1.000" in finished.out or "100.0" in finished.out


def test_the_same_commands_again_have_nothing_to_do(
    work: Work, llama_folder: Path, cli: Callable[..., Finished]
) -> None:
    before = {path: path.stat().st_mtime_ns for folder in (work.model, work.store) for path in folder.rglob("*")}
    adapt = ["adapt", "-o", work.model, "--corpus", work.corpus, "--model", llama_folder, *sets(SMALL)]
    assert cli(*adapt).code == 0
    assert cli("encode", work.model, work.corpus, "-o", work.store, "--shard-size", 7, *CPU).code == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_corpus_that_changed_is_encoded_where_it_changed(
    work: Work, corpus_rows: list[dict[str, str]], tmp_path: Path, cli: Callable[..., Finished],
    refused: Callable[..., str],
) -> None:  # fmt: skip
    rows = [*corpus_rows[3:], {"_id": "new", "text": "A text that was not there before."}]
    corpus = write(tmp_path / "corpus.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    encode = ["encode", work.model, corpus, "--shard-size", 7, *CPU]
    line = refused(*encode, "-o", work.store)
    assert "with --reuse of this store only new texts are encoded" in line
    finished = cli(*encode, "-o", tmp_path / "reused", "--reuse", work.store)
    assert finished.code == 0, finished.err
    assert f"Encoded {len(rows)} passages" in finished.out
    assert f", {len(rows) - 1} of them taken from {work.store}" in finished.out
    assert cli(*encode, "-o", tmp_path / "anew").code == 0
    reused, anew = VectorStore.open(tmp_path / "reused"), VectorStore.open(tmp_path / "anew")
    assert list(reused.ids) == list(anew.ids)
    everything = range(len(rows))
    np.testing.assert_allclose(reused.vectors(everything), anew.vectors(everything), atol=1e-6)
    line = refused(*encode, "-o", tmp_path / "reused", "--reuse", tmp_path / "reused")
    assert "is the output itself" in line


def test_every_verb_has_help(cli: Callable[..., Finished]) -> None:
    for verb in ("adapt", "encode", "index", "search", "evaluate"):
        finished = cli(verb, "--help")
        assert finished.code == 0
        assert "--help" in finished.out


# ------------------------------------------------------------------------------------------------------ bad inputs


def write(path: Path, content: bytes | str) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


GOOD = '{"_id": "a-0", "text": "The river."}\n'
BAD_CORPORA: dict[str, tuple[bytes | str | None, str]] = {
    "missing": (None, "no such file or folder"),
    "empty": ("", "is empty"),
    "broken line": (GOOD + '{"_id": "a-1", "text": \n', "corpus.jsonl:2 is not JSON"),
    "no text": (GOOD + '{"_id": "a-1"}\n', 'corpus.jsonl:2 has no "text"'),
    "duplicate ids": (GOOD + GOOD, "corpus.jsonl:2 repeats the id 'a-0'"),
    "not UTF-8": (GOOD.encode() + b'{"_id": "a-1", "text": "caf\xe9"}\n', "corpus.jsonl:2 is not UTF-8"),
}


@pytest.mark.parametrize("case", BAD_CORPORA)
@pytest.mark.parametrize("verb", ["adapt", "encode"])
def test_a_corpus_that_cannot_be_read_is_one_line_and_leaves_nothing(
    case: str, verb: str, llama_folder: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    content, message = BAD_CORPORA[case]
    corpus, output = tmp_path / "corpus.jsonl", tmp_path / "out"
    if content is not None:
        write(corpus, content)
    if verb == "adapt":
        line = refused("adapt", "-o", output, "--corpus", corpus, "--model", llama_folder, *sets(SMALL))
    else:
        line = refused("encode", llama_folder, corpus, "-o", output, *CPU)
    assert message in line
    assert not (output / "store.json").exists()
    assert not output.exists()


def test_a_corpus_of_empty_texts_cannot_be_learnt_from(
    llama_folder: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    corpus = write(tmp_path / "corpus.jsonl", '{"_id": "a-0", "text": ""}\n')
    line = refused("adapt", "-o", tmp_path / "out", "--corpus", corpus, "--model", llama_folder)
    assert "no text to learn from" in line
    assert not (tmp_path / "out").exists()


def test_too_little_text_for_one_batch_is_told(llama_folder: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    corpus = write(tmp_path / "corpus.jsonl", GOOD)
    line = refused("adapt", "-o", tmp_path / "out", "--corpus", corpus, "--model", llama_folder, *sets(SMALL))
    assert "one batch of 4 is more than the 1 training example" in line


def test_a_model_that_is_not_causal_is_refused_by_every_verb(
    work: Work, tokenizer: Any, tmp_path: Path, refused: Callable[..., str]
) -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    folder = tmp_path / "t5"
    config = T5Config(vocab_size=120, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0)
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    output = tmp_path / "out"
    for command in (
        ["adapt", "-o", output, "--corpus", work.corpus, "--model", folder, *sets(SMALL)],
        ["encode", folder, work.corpus, "-o", output, *CPU],
        ["evaluate", folder, "--task", work.beir, "-o", tmp_path / "scores", *CPU],
    ):
        assert "'t5' is not a causal language model" in refused(*command)
    assert not (tmp_path / "scores").exists()
    assert not (output / "model.safetensors").exists()


def test_a_missing_model_is_one_line(work: Work, tmp_path: Path, refused: Callable[..., str]) -> None:
    assert "no such model folder" in refused("encode", tmp_path / "gone", work.corpus, "-o", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    assert "no config.json" in refused("encode", tmp_path / "empty", work.corpus, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_recipe_with_an_unknown_key_is_told_with_the_nearest_one(
    work: Work, tmp_path: Path, refused: Callable[..., str]
) -> None:
    recipe = write(tmp_path / "recipe.toml", "[optimizer]\nsteps = 3\nlerning_rate = 1e-4\n")
    line = refused("adapt", recipe, "-o", tmp_path / "out", "--corpus", work.corpus)
    assert "recipe.toml: unknown key 'optimizer.lerning_rate'; did you mean 'optimizer.learning_rate'?" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["adapt"], "text.corpus is empty"),
        (["adapt", "gone.toml"], "no such recipe"),
        (["adapt", "--set", "steps"], "write it as section.key=value"),
        (["encode", "m", "c.jsonl", "-o", "out"], "c.jsonl: no such file"),
        (["search", "gone"], "gone"),
        (["search", "gone", "--queries", "q"], "--queries and --run belong together"),
        (["index", "gone", "-o", "out"], "gone"),
        (["evaluate", "bm25", "--task", "x.tsv"], "x.tsv: no such file"),
        (["evaluate", "bm25", "--task", "sts/stsb"], "bm25 does not score sentence pairs"),
        (["evaluate", "bm25", "--task", "gone"], "unknown task or folder 'gone'"),
    ],
)
def test_arguments_that_do_not_fit_are_one_line(
    arguments: list[str], message: str, refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert message in refused(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_exists_is_not_replaced_without_overwrite(
    work: Work, llama_folder: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    def snapshot() -> dict[Path, int]:
        folders = (work.model, work.store, work.index)
        return {path: path.stat().st_mtime_ns for folder in folders for path in folder.rglob("*")}

    before = snapshot()
    changed = [*SMALL, "optimizer.seed=7"]
    adapt = ["adapt", "-o", work.model, "--corpus", work.corpus, "--model", llama_folder, *sets(changed)]
    (tmp_path / "scores").mkdir()
    report = write(tmp_path / "scores" / f"{work.beir.name}-test.json", "mine")
    for command, message in (
        (adapt, "optimizer.seed: 0 there, 7 now"),
        (["encode", work.model, work.corpus, "-o", work.store, "--shard-size", 9, *CPU], "--overwrite"),
        (["index", work.store, "-o", work.index, "--kind", "faiss-flat"], "--overwrite"),
        (["evaluate", "bm25", "--task", work.beir, "-o", report.parent], f"{report} cannot be read as JSON"),
        (["encode", work.model, work.corpus, "-o", work.model, *CPU], str(work.model)),
    ):
        assert message in refused(*command)
    assert snapshot() == before
    assert report.read_text(encoding="utf-8") == "mine"


def test_a_finished_command_again_is_already_done(work: Work, cli: Callable[..., Finished]) -> None:
    before = {path: path.stat().st_mtime_ns for path in work.index.rglob("*")}
    done = cli("index", work.store, "-o", work.index)
    assert (done.code, done.out) == (0, f"{work.index} is already done; nothing to do\n")
    assert {path: path.stat().st_mtime_ns for path in work.index.rglob("*")} == before


def test_a_contract_edited_by_hand_is_refused(work: Work, tmp_path: Path, refused: Callable[..., str]) -> None:
    model = tmp_path / "model"
    shutil.copytree(work.model, model, ignore=shutil.ignore_patterns("checkpoints"))
    contract = model / "llama2vec.json"
    contract.write_text(contract.read_text(encoding="utf-8").replace("original", "orignal"), encoding="utf-8")
    line = refused("encode", model, work.corpus, "-o", tmp_path / "out", *CPU)
    assert "edited by hand" in line
    assert not (tmp_path / "out").exists()


def test_a_truncated_shard_is_refused(work: Work, tmp_path: Path, refused: Callable[..., str]) -> None:
    store = tmp_path / "store"
    shutil.copytree(work.store, store)
    shard = sorted(store.glob("shard-*.vectors.npy"))[1]
    shard.write_bytes(shard.read_bytes()[:-64])
    for command in (
        ["search", store, "river", *CPU],
        ["index", store, "-o", tmp_path / "index"],
        ["index", store, "-o", tmp_path / "index", "--kind", "faiss-flat"],
    ):
        assert shard.name in refused(*command)
    assert not (tmp_path / "index").exists()


def test_another_model_than_the_one_that_encoded_is_refused(
    work: Work, llama_folder: Path, refused: Callable[..., str]
) -> None:
    assert "contract" in refused("search", work.index, "river", "--model", llama_folder, *CPU)


@pytest.mark.parametrize("model", ["bm25", "tiny"])
def test_judgments_that_name_unknown_passages_are_refused(
    model: str, work: Work, corpus_rows: list[dict[str, str]], tmp_path: Path, refused: Callable[..., str]
) -> None:
    task = write_beir(tmp_path / "task", corpus_rows, {"q0": corpus_rows[0]["_id"], "q1": "nowhere"})
    scores = tmp_path / "scores"
    line = refused(
        "evaluate", "bm25" if model == "bm25" else work.model, "--task", task, "-o", scores,
        *(CPU if model != "bm25" else []),
    )  # fmt: skip
    assert "1 passage ('nowhere') missing from the corpus" in line
    assert not scores.exists()


def test_judgments_of_unknown_queries_are_refused(
    corpus_rows: list[dict[str, str]], tmp_path: Path, refused: Callable[..., str]
) -> None:
    task = write_beir(tmp_path / "task", corpus_rows, {"q99": corpus_rows[0]["_id"]})
    assert "1 query ('q99')" in refused("evaluate", "bm25", "--task", task)


def test_a_full_disk_is_one_line_without_a_traceback(
    work: Work, llama_folder: Path, tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llama2vec.training.saving.write_json", full)
    line = refused("adapt", "-o", tmp_path / "out", "--corpus", work.corpus, "--model", llama_folder, *sets(SMALL))
    assert f"disk full while writing {tmp_path / 'out'}; free space" in line


# --------------------------------------------------------------------------------------------------------- Ctrl-C


def test_ctrl_c_exits_with_130_and_the_same_command_goes_on(
    work: Work, llama_folder: Path, tmp_path: Path, cli: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    from llama2vec.adapt.train import PretextObjective

    output = tmp_path / "out"
    command = ["adapt", "-o", output, "--corpus", work.corpus, "--model", llama_folder, *sets(SMALL)]
    loss, calls = PretextObjective.loss, [0]

    def interrupted(self: Any, model: Any, batch: Any) -> Any:
        calls[0] += torch.is_grad_enabled()  # validation is not counted
        if calls[0] == 4:
            raise KeyboardInterrupt
        return loss(self, model, batch)

    monkeypatch.setattr(PretextObjective, "loss", interrupted)
    stopped = cli(*command)
    assert stopped.code == 130
    assert "interrupted; rerun the same command to resume" in stopped.err
    assert "Traceback" not in stopped.err
    assert not (output / "model.safetensors").exists()
    calls[0] = 10
    assert cli(*command).code == 0
    # Two steps were kept by the checkpoint and two were left.
    assert calls[0] - 10 == 2
    expected, found = ((folder / "model.safetensors").read_bytes() for folder in (work.model, output))
    assert found == expected


def test_ctrl_c_while_encoding_exits_with_130_and_the_same_command_goes_on(
    work: Work, tmp_path: Path, cli: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    from llama2vec.model.encoder import Encoder

    encode, calls = Encoder.passage_batches, [0]

    def interrupted(self: Encoder, *arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        return encode(self, *arguments, **options)

    monkeypatch.setattr(Encoder, "passage_batches", interrupted)
    command = ["encode", work.model, work.corpus, "-o", tmp_path / "store", "--shard-size", 7, *CPU]
    stopped = cli(*command)
    assert stopped.code == 130
    assert "interrupted; rerun the same command to resume" in stopped.err
    assert not (tmp_path / "store" / "store.json").exists()
    assert cli(*command).code == 0
    assert calls[0] == 5
    expected, found = (
        {path.name: path.read_bytes() for path in folder.glob("shard-*.npy")}
        for folder in (work.store, tmp_path / "store")
    )
    assert found == expected
