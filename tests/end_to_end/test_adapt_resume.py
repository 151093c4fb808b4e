"""An adaptation that is killed at any moment ends, when it is run again, with the bytes of an uninterrupted one."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from killed_training import assert_ends_alike, die, die_at, exit_code, forked, outcome

from llama2vec.adapt.settings import AdaptConfig
from llama2vec.config import load_config
from llama2vec.errors import OutputExistsError

pytestmark = pytest.mark.slow

OVERRIDES = {
    "lora": ["model.lora.rank=4", "model.lora.dropout=0.1", "prompts=released", "objective.language_model_weight=1"],
    "full": ["model.lora.rank=0", "optimizer.learning_rate=1e-3", "objective.micro_batch_tokens=80"],
}


def config_for(kind: str, llama_folder: Path, corpus_file: Path, *more: str) -> AdaptConfig:
    return load_config(
        AdaptConfig,
        None,
        [
            f"model.name={llama_folder}", "model.dtype=float32", "model.device=cpu", f"text.corpus={corpus_file}",
            "text.min_words=5", "text.max_words=20", "text.max_tokens=24", "text.held_out=0.2",
            "optimizer.steps=11", "optimizer.batch_size=4", "optimizer.log_every=2", "optimizer.save_every=3",
            "optimizer.validate_every=5", *OVERRIDES[kind], *more,
        ],
    )  # fmt: skip


def adapt_and_die(config: AdaptConfig, output: str, moment: str) -> None:
    """Run in a process of its own; kill it, as the kernel would, at a given moment."""
    import torch

    from llama2vec.adapt.stage import adapt_model
    from llama2vec.training import loop
    from llama2vec.training import state as training_state

    torch.set_num_threads(1)
    die_at(moment)
    kind, _, number = moment.partition(":")
    if kind == "half a log line":

        def write_half(self: Any, line: dict[str, float], state: Any) -> None:
            with (self.folder / loop.LOG_FILE).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(line)[:20])
                stream.flush()
                os.fsync(stream.fileno())
            die()

        loop._Recorder._write = write_half  # type: ignore[method-assign]
    elif kind == "before complete":
        complete = training_state.write_json

        def die_before(path: Path, data: Any) -> None:
            if data["step"] >= int(number):
                die()
            complete(path, data)

        training_state.write_json = die_before
    elif kind == "before the older go":
        remove = training_state.remove_older

        def die_instead(checkpoint: Path, *rest: Any) -> None:
            if training_state.step_of(checkpoint) >= int(number):
                die()
            remove(checkpoint, *rest)

        training_state.remove_older = die_instead
    elif kind == "saving encoder":
        replace, moved = Path.replace, [0]

        def replace_then_die(self: Path, target: Path) -> Path:
            moved[0] += ".saving-" in str(self)
            if moved[0] == int(number):
                die()
            return replace(self, target)

        Path.replace = replace_then_die  # type: ignore[method-assign,assignment]
    adapt_model(config, output)


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[..., Any]]:
    with forked(adapt_and_die, ["llama2vec.adapt.train", "peft"]) as begin:
        yield begin


def finish(process: Any) -> None:
    assert exit_code(process) == 0


@pytest.fixture(scope="module", params=["lora", "full"])
def uninterrupted(
    request: pytest.FixtureRequest, start: Callable[..., Any], llama_folder: Path, corpus_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[AdaptConfig, dict[str, Any]]:  # fmt: skip
    config = config_for(request.param, llama_folder, corpus_file)
    output = tmp_path_factory.mktemp("whole") / "out"
    finish(start(config, output))
    found = outcome(output)
    assert "model.safetensors" in found["files"]
    assert ("adapter/adapter_model.safetensors" in found["files"]) == (request.param == "lora")
    assert [line["step"] for line in found["log"] if "loss" in line] == [2, 3, 4, 6, 8, 9, 10, 11]
    return config, found


MOMENTS = {
    "lora": [
        "half a log line", "inside checkpoint:3", "before complete:11", "before the older go:11", "before encoder",
        "saving encoder:3", "before manifest",
    ],
    "full": ["before complete:6", "before encoder"],
}  # fmt: skip


def test_killed_again_and_again_it_ends_with_the_bytes_of_an_uninterrupted_run(
    uninterrupted: tuple[AdaptConfig, dict[str, Any]], start: Callable[..., Any], tmp_path: Path
) -> None:
    config, expected = uninterrupted
    moments = MOMENTS["lora" if config.model.lora.rank else "full"]
    assert_ends_alike(start, config, moments, tmp_path / "out", expected)


def test_killed_from_outside_when_the_log_reaches_a_step(
    uninterrupted: tuple[AdaptConfig, dict[str, Any]], start: Callable[..., Any], tmp_path: Path
) -> None:
    config, expected = uninterrupted
    output = tmp_path / "out"
    log = output / "log.jsonl"
    process = start(config, output)
    deadline = time.monotonic() + 60
    while process.is_alive() and time.monotonic() < deadline:
        if log.exists() and '"step": 4' in log.read_text(encoding="utf-8"):
            break
        time.sleep(0.002)
    process.kill()
    process.join()
    finish(start(config, output))
    assert outcome(output) == expected


# ------------------------------------------------------------------------------------------- what stands at the output


@pytest.fixture(scope="module")
def finished(
    start: Callable[..., Any], llama_folder: Path, corpus_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    output = tmp_path_factory.mktemp("finished") / "out"
    finish(start(config_for("lora", llama_folder, corpus_file, "optimizer.steps=3"), output))
    return output, llama_folder


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_same_settings_again_are_nothing_to_do(finished: tuple[Path, Path], corpus_file: Path) -> None:
    from llama2vec.adapt.stage import adapt_model

    output, base = finished
    before = snapshot(output)
    encoder = adapt_model(config_for("lora", base, corpus_file, "optimizer.steps=3"), output)
    assert encoder.encode_queries(["river"]).shape == (1, 32)
    assert snapshot(output) == before


def test_other_settings_and_another_corpus_are_refused_by_name(
    finished: tuple[Path, Path], corpus_file: Path, tmp_path: Path
) -> None:
    from llama2vec.adapt.stage import adapt_model

    output, base = finished
    before = snapshot(output)
    with pytest.raises(OutputExistsError, match=r"optimizer\.steps: 3 there, 4 now.*--overwrite"):
        adapt_model(config_for("lora", base, corpus_file, "optimizer.steps=4"), output)
    other = tmp_path / "corpus.jsonl"
    other.write_text(corpus_file.read_text(encoding="utf-8").replace("doc0-000", "doc7-000"), encoding="utf-8")
    with pytest.raises(OutputExistsError, match=r"text\.corpus"):
        adapt_model(config_for("lora", base, other, "optimizer.steps=3"), output)
    assert snapshot(output) == before


def test_a_run_that_was_short_of_memory_goes_on_in_smaller_pieces(
    start: Callable[..., Any], llama_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    from llama2vec.adapt.stage import adapt_model

    output = tmp_path / "out"
    process = start(config_for("full", llama_folder, corpus_file), output, "inside checkpoint:6")
    assert exit_code(process) == -signal.SIGKILL
    adapt_model(config_for("full", llama_folder, corpus_file, "objective.micro_batch_tokens=40"), output)
    steps = [json.loads(line)["step"] for line in (output / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert steps[-1] == 11
    assert steps == sorted(steps)


def test_a_foreign_folder_and_a_file_are_not_touched_even_with_overwrite(
    llama_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    from llama2vec.adapt.stage import adapt_model

    config = config_for("full", llama_folder, corpus_file)
    folder, file = tmp_path / "mine", tmp_path / "file"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work", encoding="utf-8")
    file.write_text("work", encoding="utf-8")
    for output in (folder, file):
        for overwrite in (False, True):
            with pytest.raises(OutputExistsError, match="does not hold an adaptation"):
                adapt_model(config, output, overwrite=overwrite)
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]
    assert file.read_text(encoding="utf-8") == "work"


def test_overwrite_replaces_an_adaptation_of_other_settings(
    start: Callable[..., Any], llama_folder: Path, corpus_file: Path, tmp_path: Path
) -> None:
    from llama2vec.adapt.stage import STAGE, adapt_model
    from llama2vec.artifact import strangers

    output = tmp_path / "out"
    finish(start(config_for("lora", llama_folder, corpus_file, "optimizer.steps=2"), output))
    (output / "checkpoints.txt").write_text("notes", encoding="utf-8")
    full = config_for("full", llama_folder, corpus_file, "optimizer.steps=1")
    with pytest.raises(OutputExistsError, match=r"holds checkpoints\.txt, which llama2vec did not write"):
        adapt_model(full, output, overwrite=True)
    (output / "checkpoints.txt").unlink()
    (output / "README.md").write_text("My own card.", encoding="utf-8")
    adapt_model(config_for("full", llama_folder, corpus_file, "optimizer.steps=1"), output, overwrite=True)
    manifest = json.loads((output / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["results"]["steps"] == 1
    assert manifest["settings"]["model"]["lora"]["rank"] == 0
    assert not (output / "adapter").exists()
    assert (output / "README.md").read_text(encoding="utf-8") == "My own card."
    assert strangers(output, STAGE.kind) == []
    assert [json.loads(line)["step"] for line in (output / "log.jsonl").read_text().splitlines()] == [1, 1]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []
    # Other users' services read what a library made private.
    assert {path.stat().st_mode & 0o777 for path in output.glob("*.safetensors")} == {0o666 & ~_umask()}


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("fault", ["model.name=/nowhere/model", "optimizer.learning_rate=1e300"])
def test_a_failed_overwrite_leaves_the_finished_adaptation_and_a_failed_start_blocks_nothing(
    finished: tuple[Path, Path], corpus_file: Path, tmp_path: Path, fault: str
) -> None:
    from llama2vec.adapt.stage import adapt_model
    from llama2vec.errors import Llama2VecError

    output, base = finished
    before = snapshot(output)
    faulty = config_for("lora", base, corpus_file, "optimizer.steps=2", "optimizer.warmup=0", fault)
    with pytest.raises(Llama2VecError):
        adapt_model(faulty, output, overwrite=True)
    assert snapshot(output) == before
    with pytest.raises(Llama2VecError):
        adapt_model(faulty, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_input_is_never_the_output(finished: tuple[Path, Path], corpus_file: Path) -> None:
    from llama2vec.adapt.stage import adapt_model

    output, _ = finished
    before = snapshot(output)
    with pytest.raises(OutputExistsError, match=r"the input .* is the output itself"):
        adapt_model(config_for("lora", output, corpus_file, "optimizer.steps=2"), output, overwrite=True)
    assert snapshot(output) == before
