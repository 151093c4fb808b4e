"""The folder that a training writes: how it is recognized, the plan in it, and the right to write it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from os.path import normpath
from pathlib import Path
from typing import Any

from llama2vec.artifact import Found, Kind, Work, check_claim, claim, read_object
from llama2vec.data.examples.spool import SPOOL_FILE
from llama2vec.files import check_inputs, file_sha256, write_json
from llama2vec.manifest import MANIFEST_FILE, digest, sealed, versions
from llama2vec.model.contract import CONTRACT_FILE
from llama2vec.model.golden import GOLDEN_FILE, GOLDEN_VECTORS
from llama2vec.model.local import fetched
from llama2vec.model.publish.origin import CARD_FILE, origin_of
from llama2vec.model.publish.portable_files import PUBLIC_FILES
from llama2vec.model.publish.publishing import is_authors_card
from llama2vec.model.source import resolve_model
from llama2vec.processes import check_same, connect, launched_processes, on_first_process
from llama2vec.training.state import CHECKPOINTS, LOG_FILE, LOSS_PLOT, has_checkpoint
from llama2vec.training.tracking import TENSORBOARD, TRACKING_FILE

PLAN_SEAL = "hash"
"""The key of a plan's own hash."""
_FORMAT = 4
"""The format of plans. Those of lower ones are of development versions, whose trainings would continue differently."""

_FILES = (
    *(MANIFEST_FILE, LOG_FILE, LOSS_PLOT, TRACKING_FILE, f"{TENSORBOARD}/**", f"{CHECKPOINTS}/**"),
    *("adapter/**", ".saving-*/**", CARD_FILE),
    *("config.json", "generation_config.json", "model*.safetensors", "model.safetensors.index.json", CONTRACT_FILE),
    *("tokenizer*", "vocab*", "merges.txt", "*.model", "added_tokens.json", "special_tokens_map.json", "dict.txt"),
    *(SPOOL_FILE, f".{SPOOL_FILE}-*", "chat_template.jinja", GOLDEN_FILE, GOLDEN_VECTORS, *PUBLIC_FILES),
)
"""All that a training leaves in its folder, whatever the architecture."""


_WITHOUT_EFFECT: Mapping[str, tuple[str, ...]] = {
    "model": ("gradient_checkpointing",),
    "objective": ("micro_batch_tokens", "sequences"),
    "contrastive": ("micro_batch_tokens", "graph_tokens"),
    "optimizer": ("log_every", "keep_checkpoints", "workers"),
    "validation": ("split",),
}
"""Settings that decide memory, or what is shown and kept: a training that ran out of memory may resume with others.
What a split decides is in the fingerprint of the rows that were read.
"""
_PATHS: Mapping[str, str] = {"model": "name", "text": "corpus", "data": "sources"}
"""Settings that say where a model or data lie; what these are, fingerprints say."""


def deciding(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a training, of either stage, that decide its result.

    >>> deciding({"optimizer": {"steps": 2, "workers": 4}, "text": {"limit": 0}})
    {'optimizer': {'steps': 2}, 'text': {'limit': 0}}

    A path counts the same in every spelling.

    >>> deciding({"text": {"corpus": "./texts/"}, "data": {"sources": ["a//b.jsonl", "hf:me/data"]}})
    {'text': {'corpus': 'texts'}, 'data': {'sources': ['a/b.jsonl', 'hf:me/data']}}
    """
    found = dict(settings)
    for section, names in _WITHOUT_EFFECT.items():
        if isinstance(found.get(section), Mapping):
            found[section] = {name: value for name, value in found[section].items() if name not in names}
    for section, name in _PATHS.items():
        if isinstance(found.get(section), Mapping) and (path := found[section].get(name)):
            spelled = [normpath(one) for one in path] if isinstance(path, list) else normpath(path)
            found[section] = {**found[section], name: spelled}
    return found


def _compared(plan: Mapping[str, Any]) -> dict[str, Any]:
    return {**plan, "settings": deciding(plan["settings"])} if isinstance(plan.get("settings"), Mapping) else {**plan}


@dataclass(frozen=True, slots=True)
class Stage:
    """A training stage as its output folder shows it."""

    name: str  # The verb, ``adapt`` or ``finetune``; the plan is ``<name>.json``
    noun: str  # What the folder holds, with its article
    data: str  # What the stage learns from
    format: int = _FORMAT  # Of its plans; higher where only trainings of this stage would continue differently

    def plan(self, settings: Mapping[str, Any], data: object, model: str) -> dict[str, Any]:
        """Return what is written down: all resolved settings, and the fingerprints of the input and the model.

        A later start compares only those settings that :func:`deciding` returns.
        """
        decides = {"settings": dict(settings), self.data: data, "model": model, "format": self.format}
        return sealed(decides, PLAN_SEAL)

    @property
    def kind(self) -> Kind:
        """How a finished or begun folder of this stage is recognized: by a plan that carries its own hash."""

        def read(folder: Path) -> Found | None:
            plan = read_object(folder / f"{self.name}.json") or {}
            if plan != sealed(plan, PLAN_SEAL):
                return None
            is_outdated = plan.get("format", 1) < self.format
            is_finished, worth_keeping = (folder / MANIFEST_FILE).is_file(), is_outdated or has_checkpoint(folder)
            return Found(_compared(plan), is_finished, worth_keeping, is_outdated=is_outdated)

        return Kind(self.noun, read, entries=(f"{self.name}.json", *_FILES))


class StageWork:
    """The right to train into one folder (:class:`llama2vec.artifact.Work`), held by the first process for all."""

    def __init__(self, stage: Stage, plan: Mapping[str, Any], output: Path) -> None:
        self.stage, self.plan, self.output = stage, plan, output
        self.path, self.is_finished = output, False
        self._work: Work  # On the first process

    def begin(self) -> Path:
        """Make the folder, or find what an earlier call left, and write the plan."""

        def write_plan(folder: Path) -> None:
            write_json(folder / f"{self.stage.name}.json", self.plan)

        # A card that its author took over stays with the folder.
        keep = [CARD_FILE] if is_authors_card(self.output / CARD_FILE) else []
        self.path = on_first_process(lambda: self._work.begin(keep, write_plan))
        return self.path

    def finish(self) -> None:
        """Put the result in the output's place."""
        on_first_process(lambda: self._work.finish())
        self.path = self.output


def model_fingerprint(name: str) -> str:
    """Return a hash of a model's weights and of its contract, if it has one; for a model on the hub, of its name."""
    source = resolve_model(name)
    if source.gguf_file:
        source = fetched(source)  # Its parts may not have been joined yet
    contract = Path(source.location) / CONTRACT_FILE
    return digest([source.fingerprint(), file_sha256(contract) if contract.is_file() else ""])


def join_processes(device: str, *, alone_too: bool = False) -> None:
    """Join the processes that torchrun started; a ConfigError where the device of the settings is not usable.

    Alone on device ``auto`` there is nothing to do, and torch, whose import takes seconds, is not imported.
    ``alone_too`` as in :func:`connect`.
    """
    if launched_processes() > 1 or alone_too or device != "auto":
        from llama2vec.model.device import choose_device

        connect(choose_device(device), alone_too=alone_too)


def check_output(
    output: Path, stage: Stage, plan: Callable[[], dict[str, Any]], *, overwrite: bool, inputs: Iterable[str | None]
) -> None:
    """Raise what :func:`claim_output` would for the output folder, and change nothing.

    Raises:
        OutputExistsError: The folder is not free for this plan, or holds or lies in one of the ``inputs``.
    """
    check_inputs(output, inputs)
    check_claim(output, stage.kind, lambda: _compared(plan()), overwrite=overwrite)


@contextmanager
def claim_output(
    output: Path,
    stage: Stage,
    plan: dict[str, Any],
    *,
    overwrite: bool,
    device: str,
    model: str,
    inputs: Iterable[str | None] = (),
    sharding: str = "none",
) -> Iterator[StageWork]:
    """Take the output folder for this plan, once for all processes.

    Raises:
        ModelError: The manifest of ``model``, which the training starts from, was changed after it was written.
        OutputExistsError: The folder is not free for this plan, or holds the model or one of the ``inputs``.
        TrainingError: Another process was started with another plan, another ``sharding`` or other versions.
    """
    origin_of(model)  # A damaged manifest is refused before the training rather than after it
    join_processes(device, alone_too=sharding != "none")
    check_same(f"{plan[PLAN_SEAL]} {sharding}", f"settings, {stage.data} or model")
    check_same(digest(versions()), "versions of packages")
    made = StageWork(stage, plan, output)
    with ExitStack() as stack:

        def take() -> tuple[Path, bool]:
            made._work = stack.enter_context(
                claim(output, stage.kind, _compared(plan), overwrite=overwrite, inputs=[model, *inputs])
            )
            return made._work.path, made._work.is_finished

        made.path, made.is_finished = on_first_process(take)
        yield made
