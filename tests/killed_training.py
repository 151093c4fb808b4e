"""Trainings in processes of their own that die at a given moment, and what must not depend on it."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def die(*_: Any, **__: Any) -> None:
    """End this process at once, as the kernel would."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_at(moment: str) -> None:
    """Let this process die at a moment that all trainings have; any other one changes nothing."""
    from transformers import Trainer

    from llama2vec.model.encoder import Encoder
    from llama2vec.training import saving

    kind, _, number = moment.partition(":")
    if kind == "inside checkpoint":
        save = Trainer._save_optimizer_and_scheduler

        def half_save(self: Any, folder: str) -> None:
            if self.state.global_step < int(number):
                return save(self, folder)
            (Path(folder) / "optimizer.pt").write_bytes(b"half")
            return die()

        Trainer._save_optimizer_and_scheduler = half_save
    elif kind == "before encoder":
        Encoder.save = die  # type: ignore[method-assign,assignment]
    elif kind == "before manifest":
        saving.build_manifest = die  # type: ignore[assignment]


@contextmanager
def forked(train: Callable[[Any, str, str], None], preload: list[str]) -> Iterator[Callable[..., Any]]:
    """Yield what starts ``train`` in a fresh process, forked from a server that has ``preload`` imported once.

    It takes the config, the output and the moment of death, and returns the process.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(preload)
    started: list[Any] = []

    def begin(config: Any, output: Path, moment: str = "never") -> Any:
        process = context.Process(target=train, args=(config, str(output), moment), daemon=True)
        process.start()
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.is_alive():
            process.kill()
        process.join()


def exit_code(process: Any) -> int | None:
    """Wait for a process and return its exit code; None if it does not end."""
    process.join(timeout=300)
    code: int | None = process.exitcode
    return code


def outcome(folder: Path) -> dict[str, Any]:
    """Return everything that must not depend on kills: weights, tokenizer, contract, adapter, losses, best step."""
    log = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    for line in log:
        line.pop("seconds")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    files = [*folder.glob("*.safetensors"), *folder.glob("tokenizer*"), *(folder / "adapter").glob("*.safetensors")]
    names = [folder / "llama2vec.json", folder / "config.json", *files]
    return {
        "log": log,
        "facts": {key: value for key, value in manifest["results"].items() if key != "seconds"},
        "files": {str(path.relative_to(folder)): path.read_bytes() for path in names},
        "checkpoints": sorted(path.name for path in (folder / "checkpoints").iterdir()),
    }


def assert_ends_alike(
    start: Callable[..., Any], config: Any, moments: list[str], output: Path, expected: dict[str, Any]
) -> None:
    """Kill a training at each moment, let the last call finish, and compare it with an uninterrupted one."""
    for moment in moments:
        assert exit_code(start(config, output, moment)) == -signal.SIGKILL, moment
        assert not (output / "manifest.json").exists()
    assert exit_code(start(config, output)) == 0
    found = outcome(output)
    for part in ("log", "facts", "checkpoints"):
        assert found[part] == expected[part], part
    assert found["files"].keys() == expected["files"].keys()
    changed = [name for name, content in expected["files"].items() if found["files"][name] != content]
    assert changed == []
    assert not list(output.glob(".*"))
