"""One command from a corpus to scores: skipped where nothing changed, refused where work would be lost, resumed."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opens import Opens
from running import CommandLine

from llama2vec.cli import main
from llama2vec.config import load_config
from llama2vec.errors import OutputExistsError
from llama2vec.pipeline.settings import RunConfig
from llama2vec.retrieve.search.retriever import Retriever
from llama2vec.score.results import read_result

pytestmark = pytest.mark.slow

STAGES = ["pairs", "adapt", "mine", "finetune", "encode", "index", "evaluate"]


@pytest.fixture(scope="module")
def task(corpus_rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("task")
    (folder / "qrels").mkdir()
    asked = corpus_rows[::4]
    lines = {
        "corpus.jsonl": [json.dumps(row) for row in corpus_rows],
        "queries.jsonl": [
            json.dumps({"_id": f"q{number}", "text": row["text"].partition(".")[0]}) for number, row in enumerate(asked)
        ],
        "qrels/test.tsv": [
            "query-id\tcorpus-id\tscore",
            *(f"q{number}\t{row['_id']}\t1" for number, row in enumerate(asked)),
        ],
        "pairs.tsv": [
            "sentence1\tsentence2\tscore",
            *(f"{row['text'][:40]}\t{corpus_rows[number]['text'][:40]}\t{number}" for number, row in enumerate(asked)),
        ],
    }
    for name, content in lines.items():
        (folder / name).write_text("\n".join(content) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def recipe(llama_folder: Path, task: Path) -> Path:
    path = task / "recipe.toml"
    path.write_text(
        f"""
corpus = "{task}"
[model]
name = "{llama_folder}"
dtype = "float32"
device = "cpu"
lora = {{ rank = 4 }}
[encoder]
query_max_tokens = 24
passage_max_tokens = 48
[adapt.text]
min_words = 5
max_words = 20
max_tokens = 24
[adapt.optimizer]
steps = 4
batch_size = 4
save_every = 1
[pairs]
from_corpus = true
[mine]
negatives = 2
[finetune.optimizer]
steps = 4
batch_size = 4
save_every = 1
[encode]
shard_size = 8
[index]
bm25 = true
[evaluate]
tasks = ["{task}", "{task / "pairs.tsv"}"]
""",
        encoding="utf-8",
    )
    return path


@pytest.fixture
def llama2vec(command_line: CommandLine) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object) -> tuple[int, str, str]:
        done = command_line("run", *arguments)
        return done.code, done.out, done.err

    return run


def test_a_corpus_is_hashed_once_and_parsed_once(
    llama2vec: Callable[..., tuple[int, str, str]], recipe: Path, corpus_file: Path, tmp_path: Path
) -> None:
    sets = [part for stage in ("mine", "finetune", "index", "evaluate") for part in ("--set", f"{stage}=false")]
    opens = Opens()
    code, _, err = llama2vec(recipe, "-o", tmp_path / "run", "--corpus", corpus_file, *sets)
    assert code == 0, err
    assert opens.of(corpus_file) == 2


def run_and_die(config: RunConfig, output: str, moment: str) -> None:
    """Run in a process of its own and kill it, as the kernel would, at a given moment."""
    import torch

    from llama2vec.pipeline import execution, record, stages
    from llama2vec.pipeline.plan import plan_run
    from llama2vec.training import saving
    from llama2vec.training import state as training_state

    torch.set_num_threads(1)

    def die(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    kind, _, name = moment.partition(":")
    if kind == "checkpoint":
        write = training_state.write_json

        def write_then_die(path: Path, data: Any) -> None:
            write(path, data)
            if name in str(path) and data.get("step") == 2:
                die()

        training_state.write_json = write_then_die
    elif kind == "manifest":
        saving.build_manifest = die  # type: ignore[assignment]
    elif kind == "begun":
        begin = record.RunRecord.begin

        def begin_then_die(self: Any, stage: Any, *more: Any, **named: Any) -> None:
            begin(self, stage, *more, **named)
            if stage.name == name:
                die()

        record.RunRecord.begin = begin_then_die  # type: ignore[method-assign]
    elif kind == "done":
        finish = record.RunRecord.finish

        def die_instead(self: Any, stage: Any, *more: Any) -> None:
            if stage.name == name:
                die()
            finish(self, stage, *more)

        record.RunRecord.finish = die_instead  # type: ignore[method-assign]
    elif kind == "scores":
        stages.system_markdown = die  # type: ignore[assignment]
    execution.execute(plan_run(config, output))


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[..., int]]:
    """Run in a fresh process, forked from a server that has torch loaded once; return its exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["llama2vec.pipeline.execution", "peft", "matplotlib.pyplot", "ir_measures"])

    def begin(config: RunConfig, output: Path, moment: str = "never") -> int:
        process = context.Process(target=run_and_die, args=(config, str(output), moment), daemon=True)
        process.start()
        process.join(timeout=120)
        assert process.exitcode is not None
        return int(process.exitcode)

    return begin  # type: ignore[return-value]


@pytest.fixture(scope="module")
def whole(start: Callable[..., int], recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; copied by whoever changes it."""
    output = tmp_path_factory.mktemp("whole") / "run"
    assert start(load_config(RunConfig, recipe), output) == 0
    return output


@pytest.fixture
def finished(whole: Path) -> Iterator[Path]:
    """The finished run in its own place, as it was, after each test."""
    kept = whole.with_name("kept")
    shutil.copytree(whole, kept)
    yield whole
    shutil.rmtree(whole)
    kept.rename(whole)


def entries(output: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / "run.json").read_text(encoding="utf-8"))["stages"]
    return found


def scores(output: Path) -> Any:
    """Return task → system → metrics and intervals, in the order of the report."""
    found: dict[str, dict[str, Any]] = {}
    for system in ("bm25", "adapted", "finetuned", "hybrid"):
        for file in sorted((output / "report" / system).glob("*.json")):
            report = read_result(file).report
            found.setdefault(report.task, {})[system] = (report.metrics, report.intervals)
    return found


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


# ------------------------------------------------------------------------------------------------------- what it makes


def test_every_stage_is_made_and_recorded_with_what_made_it(whole: Path, task: Path) -> None:
    found = entries(whole)
    assert list(found) == STAGES
    for name, entry in found.items():
        assert entry["state"] == "finished", name
        assert entry["output"], name
        assert entry["seconds"] >= 0
        assert all(entry["inputs"].values()), name
        assert len(entry["settings_hash"]) == 64
    assert found["finetune"]["inputs"]["model"] == found["adapt"]["output"]
    assert found["encode"]["inputs"]["model"] == found["finetune"]["output"]
    assert {path.name for path in whole.iterdir()} == {
        "adapted", "pairs", "negatives", "finetuned", "store", "index", "report", "run.json",
    }  # fmt: skip
    assert {name: list(found) for name, found in scores(whole).items()} == {
        f"{task.name}/test": ["bm25", "adapted", "finetuned", "hybrid"],
        "sts/pairs": ["adapted", "finetuned"],
    }


def test_the_index_answers_and_the_scores_are_those_of_evaluate(
    whole: Path, task: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert Retriever.open(whole / "index").modes == ("hybrid", "dense", "bm25")
    for arguments in (
        ["search", whole / "index", "The river", "--dtype", "float32", "--device", "cpu", "--mode", "hybrid"],
        ["search", whole / "index", "The river", "--dtype", "float32", "--device", "cpu", "--depth", 2],
        ["evaluate", whole / "finetuned", "--task", task, "--name", "finetuned", "--dtype", "float32",
         "--device", "cpu", "-o", tmp_path / "finetuned"],
        ["evaluate", whole / "finetuned", "--task", task, "--name", "hybrid", "--dtype", "float32", "--mode", "hybrid",
         "--device", "cpu", "-o", tmp_path / "hybrid"],
    ):  # fmt: skip
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        assert not stopped.value.code, capfd.readouterr().err
    for system in ("finetuned", "hybrid"):
        alone = read_result(next((tmp_path / system).glob("*.json"))).report
        assert scores(whole)[alone.task][system][0] == pytest.approx(alone.metrics, abs=1e-6)


# ---------------------------------------------------------------------------------------------------------- run again


def test_the_same_run_again_touches_nothing_and_shows_the_scores(
    finished: Path, recipe: Path, llama2vec: Callable[..., tuple[int, str, str]], caplog: pytest.LogCaptureFixture
) -> None:
    before = snapshot(finished)
    with caplog.at_level("INFO"):
        code, out, err = llama2vec(recipe, "--output", finished)
    assert code == 0, err
    assert snapshot(finished) == before
    assert caplog.text.count("skipped, unchanged") == len(STAGES)
    assert "All stages were already done: " in out
    assert "nDCG@10" in out


def test_a_changed_setting_is_named_and_nothing_is_touched_without_overwrite(
    finished: Path, recipe: Path, llama2vec: Callable[..., tuple[int, str, str]]
) -> None:
    before = snapshot(finished)
    code, out, err = llama2vec(recipe, "--output", finished, "--set", "finetune.contrastive.temperature=0.5")
    assert (code, out) == (2, "")
    (line,) = [line for line in err.splitlines() if line.startswith("llama2vec: ")]
    assert "finetune.contrastive.temperature: 0.02 there, 0.5 now" in line
    assert "--overwrite" in line
    assert snapshot(finished) == before


def test_overwrite_makes_the_changed_stage_and_what_depends_on_it_again(
    finished: Path, recipe: Path, llama2vec: Callable[..., tuple[int, str, str]]
) -> None:
    before = entries(finished)
    code, out, err = llama2vec(
        recipe, "--output", finished, "--set", "finetune.optimizer.steps=2", "--overwrite", "--dry-run"
    )
    assert code == 0, err
    assert "finetune.optimizer.steps" in out
    assert entries(finished) == before
    code, out, err = llama2vec(recipe, "--output", finished, "--set", "finetune.optimizer.steps=2", "--overwrite")
    assert code == 0, err
    assert "Ran finetune, encode, index, evaluate in" in out
    after = entries(finished)
    for name in STAGES:
        assert (after[name]["output"] == before[name]["output"]) == (name in ("adapt", "pairs", "mine")), name


@pytest.mark.parametrize(("stage", "folder"), [("mine", "negatives"), ("index", "index")])
def test_an_output_that_was_damaged_is_noticed_and_made_again(
    finished: Path, recipe: Path, llama2vec: Callable[..., tuple[int, str, str]], stage: str, folder: str
) -> None:
    before = entries(finished)
    if stage == "index":
        shutil.rmtree(finished / folder / "bm25")
    else:
        with (finished / folder / "corpus.jsonl").open("a", encoding="utf-8") as stream:
            stream.write("{}\n")
    code, _, err = llama2vec(recipe, "--output", finished)
    assert code == 2
    assert f"{stage} was made from something else ({folder} was changed or damaged since)" in err
    code, out, err = llama2vec(recipe, "--output", finished, "--overwrite")
    assert code == 0, err
    # What came out is the same, so nothing behind it is done again.
    assert f"Ran {stage} in" in out
    assert {name: entry["output"] for name, entry in entries(finished).items()} == {
        name: entry["output"] for name, entry in before.items()
    }


def test_an_output_that_is_gone_is_made_again_without_being_asked(
    finished: Path, recipe: Path, llama2vec: Callable[..., tuple[int, str, str]]
) -> None:
    shutil.rmtree(finished / "index")
    shutil.rmtree(finished / "report")
    expected = entries(finished)["evaluate"]["output"]
    code, out, err = llama2vec(recipe, "--output", finished)
    assert code == 0, err
    assert "Ran index, evaluate in" in out
    assert entries(finished)["evaluate"]["output"] == expected


def test_damaged_weights_are_noticed(
    finished: Path, recipe: Path, llama2vec: Callable[..., tuple[int, str, str]]
) -> None:
    weights = finished / "adapted" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 255
    weights.write_bytes(content)
    code, _, err = llama2vec(recipe, "--output", finished)
    assert code == 2
    assert "adapted was changed or damaged since" in err


# ---------------------------------------------------------------------------------------------- from, until, refusals


def test_a_stage_whose_inputs_are_not_there_is_refused(
    recipe: Path, tmp_path: Path, llama2vec: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, err = llama2vec(recipe, "--output", tmp_path / "run", "--from", "finetune")
    assert code == 2
    assert "finetune reads pairs, which pairs has not finished" in err
    assert not (tmp_path / "run").exists()


def test_from_and_until_run_a_part(
    recipe: Path, tmp_path: Path, llama2vec: Callable[..., tuple[int, str, str]]
) -> None:
    output = tmp_path / "run"
    code, out, err = llama2vec(recipe, "--output", output, "--from", "pairs", "--until", "pairs")
    assert code == 0, err
    assert "Ran pairs in" in out
    assert list(entries(output)) == ["pairs"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "finetune.optimizer.stepz=3"], "did you mean 'finetune.optimizer.steps'?"),
        (["--corpus", "nowhere"], "nowhere: no such file or folder"),
        (["--set", 'evaluate.metrics=["nDGC@10"]'], "nDGC@10"),
        (
            ["--set", "evaluate.depth=20", "--set", 'evaluate.metrics=["R@100"]'],
            "depth 20 is less than R@100 needs",
        ),
        (["--until", "train"], "choose from pairs, adapt, mine"),
    ],
)
def test_a_mistake_anywhere_is_one_line_before_anything_is_written(
    recipe: Path, tmp_path: Path, llama2vec: Callable[..., tuple[int, str, str]], arguments: list[str], message: str
) -> None:
    code, out, err = llama2vec(recipe, "--output", tmp_path / "run", *arguments)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_judgments_of_passages_that_are_not_there_show_before_the_first_stage(
    recipe: Path, task: Path, tmp_path: Path, llama2vec: Callable[..., tuple[int, str, str]]
) -> None:
    other = tmp_path / "task"
    shutil.copytree(task, other)
    (other / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq0\tnowhere\t1\n", encoding="utf-8")
    code, _, err = llama2vec(recipe, "--output", tmp_path / "run", "--set", f'evaluate.tasks=["{other}"]')
    assert code == 2
    assert "1 passage ('nowhere') missing from the corpus" in err
    assert not (tmp_path / "run").exists()


def test_neither_recipe_nor_corpus_is_refused(llama2vec: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = llama2vec()
    assert code == 2
    assert "give a recipe, or --corpus" in err


def test_a_folder_of_somebody_else_is_not_touched(
    recipe: Path, tmp_path: Path, llama2vec: Callable[..., tuple[int, str, str]]
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    code, _, err = llama2vec(recipe, "--output", tmp_path, "--overwrite")
    assert code == 2
    assert "exists and does not hold a run of llama2vec" in err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_dry_run_shows_the_plan_of_a_bare_corpus_and_writes_nothing(
    llama_folder: Path, task: Path, tmp_path: Path, llama2vec: Callable[..., tuple[int, str, str]]
) -> None:
    code, out, err = llama2vec(
        "--corpus", task, "--model", llama_folder, "--output", tmp_path / "run", "--dry-run", "--flops", "1e9"
    )
    assert code == 0, err
    for expected in ("adapt", "pairs", "finetune", "encode", "index", "not done yet", "GiB", "as --flops says"):
        assert expected in out
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------------------------------------- kills


MOMENTS = ["checkpoint:adapted", "done:adapt", "begun:mine", "checkpoint:finetuned", "done:encode", "scores"]


def test_killed_between_and_within_stages_it_ends_with_the_same_models_and_scores(
    start: Callable[..., int], recipe: Path, whole: Path, tmp_path: Path
) -> None:
    config, output = load_config(RunConfig, recipe), tmp_path / "run"
    for moment in MOMENTS:
        assert start(config, output, moment) == -signal.SIGKILL, moment
        assert "finished" not in {entry["state"] for entry in [entries(output).get("evaluate", {"state": ""})]}
    assert start(config, output) == 0
    assert scores(output) == scores(whole)
    for folder in ("adapted", "finetuned"):
        name = f"{folder}/model.safetensors"
        assert (output / name).read_bytes() == (whole / name).read_bytes(), name
    assert not list(output.rglob(".unfinished"))


def test_a_run_begun_with_other_settings_is_refused_by_name(
    start: Callable[..., int], recipe: Path, tmp_path: Path
) -> None:
    from llama2vec.pipeline.execution import execute
    from llama2vec.pipeline.plan import plan_run

    output = tmp_path / "run"
    assert start(load_config(RunConfig, recipe), output, "checkpoint:adapted") == -signal.SIGKILL
    changed = plan_run(load_config(RunConfig, recipe, ["adapt.optimizer.steps=5"]), output)
    with pytest.raises(OutputExistsError, match=r"adapt\.optimizer\.steps: 4 there, 5 now"):
        execute(changed)


def test_a_start_that_failed_does_not_block_the_corrected_command(
    llama2vec: Callable[..., tuple[int, str, str]], recipe: Path, corpus_file: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    short = tmp_path / "short.jsonl"
    short.write_text('{"_id": "1", "text": "Too short."}\n', encoding="utf-8")
    labeled = tmp_path / "labeled.jsonl"
    labeled.write_text('{"query": "q", "pos": ["a"]}\n', encoding="utf-8")
    options = ["-o", output, "--until", "pairs", "--set", f'pairs.sources=["{labeled}"]']
    code, _, err = llama2vec(recipe, *options, "--corpus", short)
    assert (code, "the corpus gives no pairs" in err) == (2, True)
    code, _, err = llama2vec(recipe, *options, "--corpus", corpus_file)
    assert code == 0, err
    assert sorted(path.name for path in (output / "pairs").iterdir()) == ["01-labeled.jsonl", "corpus.jsonl"]
