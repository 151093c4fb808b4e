"""Run the stages of a plan in order: skip, resume or replace each, and record what was done."""

from __future__ import annotations

import dataclasses
import gc
import importlib.util
import logging
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from llama2vec.artifact import new_path, owned, refuse_strangers
from llama2vec.data.corpus.passages import count_passages, read_once
from llama2vec.data.corpus.reading import holds_documents
from llama2vec.data.settings import ReadingSettings
from llama2vec.errors import ConfigError, MissingDependencyError, OutputExistsError, TrainingError
from llama2vec.files import check_inputs, remove
from llama2vec.manifest import digest
from llama2vec.model.local import fetched
from llama2vec.model.quantized import check_quantization
from llama2vec.model.source import resolve_model
from llama2vec.model.tokenizer import load_model_config
from llama2vec.pipeline.naming import settings_named_as_in_a_run
from llama2vec.pipeline.plan import TOGETHER, PlannedStage, RunPlan, validation_fields
from llama2vec.pipeline.record import (
    STAGE_KINDS,
    Decision,
    RunRecord,
    begin_aside,
    decide,
    decide_all,
    output_fingerprint,
    reusable_folders,
    shares_held_out,
)
from llama2vec.pipeline.settings import RunConfig
from llama2vec.pipeline.systems import systems
from llama2vec.processes import check_same, on_first_process, process_count, process_rank
from llama2vec.score.corpora import tasks_data
from llama2vec.score.tasks import check_scoring, task_places
from llama2vec.training.output import join_processes

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.2


class RunResult(NamedTuple):
    """Stage name → action, and the seconds that the call took."""

    actions: Mapping[str, str]
    seconds: float


def execute(plan: RunPlan, *, overwrite: bool = False, first: str = "", last: str = "") -> RunResult:
    """Run the stages from ``first`` to ``last``; after a kill at any moment, the same call resumes.

    Finished stages with unchanged settings and inputs are skipped. Every input is read to its end before the first
    stage begins, so a faulty line is reported at once rather than after hours.

    Stages before ``first`` must be finished and are used as they are; "" = the first or last of the plan. With
    ``overwrite``, stages whose settings or inputs have changed are redone.

    Raises:
        OutputExistsError: Work would be replaced without ``overwrite``, the folder holds something else or an input,
            lies in an input, or ``first`` needs an unfinished stage.
        Llama2VecError: An input cannot be read, or a stage must stop.
    """
    started = time.monotonic()
    join_processes(plan.config.model.device)
    check_same(digest([str(stage) for stage in plan.stages]), "recipe or inputs")
    selected = plan.between(first, last)
    actions: dict[str, str] = {}
    check_output(plan)
    with read_once(), ExitStack() as stack:
        on_first_process(lambda: stack.enter_context(owned(plan.output)))
        on_first_process(lambda: _prepare(plan, selected, overwrite=overwrite))
        for number, stage in enumerate(selected, start=1):
            heading = f"[{number}/{len(selected)}] {stage.name}"
            actions[stage.name] = _run_stage(plan, stage, heading, overwrite=overwrite)
    return RunResult(actions, time.monotonic() - started)


def check_output(plan: RunPlan) -> None:
    """Raise an OutputExistsError if the run's folder is, holds or lies in something that the run reads."""
    inputs = [found.where for stage in plan.stages for found in stage.inputs if not found.stage]
    evaluate = plan.config.evaluate
    check_inputs(plan.output, [*inputs, *(task_places(evaluate.tasks, evaluate.data_root) if evaluate else ())])


def _prepare(plan: RunPlan, selected: tuple[PlannedStage, ...], *, overwrite: bool) -> None:
    """Raise for everything that would fail later."""
    record = RunRecord.open(plan.output)
    for stage in plan.stages:
        record.settle(plan, stage)
    decisions = decide_all(plan, record, selected)
    if not overwrite:
        for name, decision in decisions.items():
            _refuse_replacing(plan, name, decision)
    for stage in selected:
        if decisions[stage.name].replaces and stage.kind in STAGE_KINDS:
            refuse_strangers(plan.folder(stage), STAGE_KINDS[stage.kind])
    working = [stage for stage in selected if decisions[stage.name].action != "skip"]
    read_all_inputs(plan, working)


def _refuse_replacing(plan: RunPlan, name: str, decision: Decision) -> None:
    if decision.action == "replace":
        raise OutputExistsError(
            f"{plan.output}: {name} was made from something else ({decision.why}); "
            f"pass --overwrite to redo {name} and what depends on it, or choose another --output{_or_sync(plan)}"
        )


def _or_sync(plan: RunPlan) -> str:
    """Say how an index follows a folder of documents with the model of the run, without training again."""
    trained = [stage for stage in plan.stages if stage.kind in ("adapt", "finetune")]
    source = plan.config.encoded_corpus
    if not trained or not plan.config.encode or not Path(source).is_dir() or not holds_documents(source):
        return ""
    model = plan.folder(trained[-1])
    return f", or keep the model and let an index follow the folder: llama2vec sync {source} INDEX --model {model}"


def read_all_inputs(plan: RunPlan, stages: list[PlannedStage]) -> None:
    """Read every input of these stages to its end, and look for the packages they need.

    Raises:
        Llama2VecError: The first problem found.
    """
    config, kinds = plan.config, {stage.kind for stage in stages}
    _check_packages(plan, kinds)
    if kinds - {"pairs", "index"} and any(found.name in ("model", "raw") for stage in stages for found in stage.inputs):
        load_model_config(config.model.name)
        sections = {"adapt": config.adapt, "finetune": config.finetune}
        trained = [section for name, section in sections.items() if section and name in kinds]
        check_quantization(fetched(resolve_model(config.model.name)), for_training=bool(trained))
        if trained:
            from llama2vec.training.saving import check_trainable

            for section in trained:
                check_trainable(section.model)
    if config.adapt and "adapt" in kinds and config.adapt.model.attention not in ("sdpa", "eager"):
        raise ConfigError(f"adapt.model.attention: {config.adapt.model.attention} cannot adapt; use sdpa or eager")
    for source, reading in _corpora(config, stages):
        count_passages(source, reading)
    if config.finetune and "finetune" in kinds and config.finetune.validation.source:
        from llama2vec.finetune.validation import read_validation

        read_validation(config.finetune.validation, (), 0, validation_fields(config))
    if config.evaluate and "evaluate" in kinds:
        check_scoring(config.evaluate.tasks, config.evaluate)
        scoring = config.evaluate
        list(tasks_data(scoring.tasks, scoring.data_root, scoring.reading, check=True))


def _corpora(config: RunConfig, stages: list[PlannedStage]) -> Iterable[tuple[str, ReadingSettings]]:
    """Return each corpus from outside the run with the settings under which a stage reads it."""
    own = {"read": config.reading, "adapt": config.adapt.reading if config.adapt else config.reading}
    return dict.fromkeys(
        (found.where, own.get(stage.kind, ReadingSettings()))
        for stage in stages
        for found in stage.inputs
        # A task may be named after its folder ``corpus``.
        if found.name.startswith("corpus") and stage.kind != "evaluate" and not found.stage
    )


def _check_packages(plan: RunPlan, kinds: set[str]) -> None:
    config = plan.config
    needed: dict[str, bool] = {
        "peft:train": any(
            section is not None and section.model.lora.rank > 0 and kind in kinds
            for kind, section in (("adapt", config.adapt), ("finetune", config.finetune))
        ),
        "matplotlib:train": bool(kinds & {"adapt", "finetune"}),
        "sentencex:train": "adapt" in kinds,
        "sentencex:model": "read" in kinds or ("pairs" in kinds and _pairs_need_sentences(config)),
        "bm25s:search": ("mine" in kinds and config.mine is not None and config.mine.bm25)
        or ("index" in kinds and config.index is not None and config.index.bm25)
        or ("evaluate" in kinds and not {"bm25", "hybrid"}.isdisjoint(systems(config))),
        "faiss:search": "index" in kinds and config.index is not None and config.index.kind != "exact",
        "ir_measures:evaluate": "evaluate" in kinds or "finetune" in kinds,
    }
    for name, wanted in needed.items():
        package, _, extra = name.partition(":")
        if wanted and importlib.util.find_spec(package) is None:
            raise MissingDependencyError(f"this run needs the package {package}; pip install 'llama2vec[{extra}]'")


def _pairs_need_sentences(config: RunConfig) -> bool:
    made = config.pairs.from_corpus if config.pairs else None
    return made is not None and made.kinds.need_sentences


def _run_stage(plan: RunPlan, stage: PlannedStage, heading: str, *, overwrite: bool) -> str:
    """Run one stage, on all processes or on the first, and return the action."""
    folder = plan.folder(stage)
    decision = on_first_process(lambda: _begin(plan, stage, overwrite=overwrite))
    if decision.action == "skip":
        logger.info("%s: skipped, %s (%s)", heading, decision.why, folder)
        return decision.action
    reads = ", ".join(found.where for found in stage.inputs)
    logger.info("%s: %s → %s (%s)", heading, reads, folder, decision.why)
    started = time.monotonic()
    aside = new_path(folder) if decision.replaces and stage.kind in STAGE_KINDS else folder
    if stage.kind in (*TOGETHER, "mine") or process_rank() == 0:
        from llama2vec.pipeline.stages import work

        with settings_named_as_in_a_run(stage.kind):
            work(plan, stage, overwrite=decision.replaces, folder=aside)
    _release()
    if process_rank() == 0:
        if aside != folder:
            RunRecord.open(plan.output).put_in_place(plan, stage)
        made = output_fingerprint(stage.kind, folder, stage.settings)
        if made is None:
            raise TrainingError(f"{folder}: {stage.name} ended without a complete output; rerun the same command")
        RunRecord.open(plan.output).finish(stage, made, time.monotonic() - started, plan.config)
    elif process_count() > 1:
        _wait_until_finished(plan, stage)
    return decision.action


def _begin(plan: RunPlan, stage: PlannedStage, *, overwrite: bool) -> Decision:
    """Decide again now that all inputs exist; record that the stage has begun."""
    record, folder = RunRecord.open(plan.output), plan.folder(stage)
    made = {name: entry.get("output") for name, entry in record.stages.items()}
    inputs = stage.input_fingerprints(made)
    shares = shares_held_out(plan, stage)
    decision = decide(stage, record.stages.get(stage.name), inputs, folder, shares_draw=shares)
    if decision.action == "skip":
        return decision
    plan.inputs.check([found.where for found in stage.inputs if not found.stage])
    if not overwrite:
        _refuse_replacing(plan, stage.name, decision)
    if decision.action != "resume":
        if stage.kind in STAGE_KINDS and decision.replaces:
            refuse_strangers(folder, STAGE_KINDS[stage.kind])
            begin_aside(folder, reusable_folders(stage, record.stages.get(stage.name), folder))
        elif stage.kind in STAGE_KINDS:
            remove(new_path(folder))
        record.begin(stage, inputs, plan.config, replaces=decision.replaces)
    elif decision.replaces and record.has_replaced(stage):
        # Told to replace, a training would make what it has finished once more.
        return dataclasses.replace(decision, replaces=False)
    return decision


def _wait_until_finished(plan: RunPlan, stage: PlannedStage) -> None:
    """Wait until the first process records the stage: a collective call would time out long before mining ends."""
    while RunRecord.open(plan.output).stages[stage.name]["state"] != "finished":
        time.sleep(_POLL_SECONDS)


def _release() -> None:
    """Free the memory of a stage's model before the next stage loads its own."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
