"""What each stage of a run does: the same calls as the verb of its name, with inputs and outputs of the run."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

from llama2vec.adapt.train import adapt_model
from llama2vec.config import EncoderSettings
from llama2vec.data.corpus import corpus_fingerprint, exact_count, read_passages
from llama2vec.data.corpus_pairs import pairs_from_corpus
from llama2vec.data.examples import read_examples, write_examples
from llama2vec.explain.vocabulary import VocabularyView
from llama2vec.files import write_output
from llama2vec.finetune.settings import FinetuneConfig, FinetuneEncoderSettings
from llama2vec.finetune.train import finetune_model
from llama2vec.mine.mining import MiningInputs, mine_to_file, report_path
from llama2vec.mine.settings import MineSettings
from llama2vec.model.encoder import Encoder
from llama2vec.pipeline.plan import (
    Input,
    PlannedStage,
    RunPlan,
    adaptation_corpus,
    carries_contract,
    hybrid_model,
    mining_corpora,
    pair_files,
    raw_encoder,
    systems,
    words_language,
)
from llama2vec.pipeline.record import SUMMARY
from llama2vec.records import Report
from llama2vec.retrieve.modes import index_store
from llama2vec.retrieve.store import VectorStore
from llama2vec.retrieve.store_writer import write_store
from llama2vec.score.scoring import score_bm25, score_retrieval, score_similarity
from llama2vec.score.settings import RetrievalTask
from llama2vec.score.tables import markdown_table, reports_to_json, write_json, write_per_query

logger = logging.getLogger(__name__)

TOGETHER = ("adapt", "finetune", "encode")
"""Stages that several processes (torchrun) work on together; the others are the first process's."""


def work(plan: RunPlan, stage: PlannedStage) -> None:
    """Do what a stage does; called again after a kill, it goes on from what is there."""
    _WORK[stage.kind](plan, stage)


def _adapt(plan: RunPlan, stage: PlannedStage) -> None:
    config = plan.config.adapt
    assert config
    text = config.text.model_copy(update={"corpus": adaptation_corpus(plan.config)})
    adapt_model(config.model_copy(update={"text": text}), plan.folder(stage))


def _pairs(plan: RunPlan, stage: PlannedStage) -> None:
    settings = plan.config.pairs
    assert settings
    for name, source in pair_files(plan.config).items():
        if source:
            found = read_examples(source.source, split=source.split, limit=source.limit or None)
        else:
            assert settings.from_corpus
            found = pairs_from_corpus(read_passages(plan.config.corpus), settings.from_corpus, settings.seed)
        file = plan.folder(stage) / name
        count = write_examples(found, file, overwrite=True)
        logger.info("%s: %s pairs from %s", file, f"{count:,}", source.source if source else plan.config.corpus)


def _mine(plan: RunPlan, stage: PlannedStage) -> None:
    config, folder = plan.config, plan.folder(stage)
    assert config.mine
    settings = MineSettings.model_validate(config.mine.model_dump(include=set(MineSettings.model_fields)))
    pairs, model = stage.input("pairs"), stage.input("model")
    assert pairs
    encoder = load_encoder(plan, model) if model else None
    for name, corpus in mining_corpora(config).items():
        inputs = MiningInputs(
            str(Path(plan.path(pairs)) / name), corpus=corpus, model=model.where if model else "", encoder=encoder
        )
        report = mine_to_file(inputs, folder / name, settings)
        if report:
            logger.info("%s\n%s", report.summary(), f"report: {report_path(folder / name)}")


def _finetune(plan: RunPlan, stage: PlannedStage) -> None:
    section = plan.config.finetune
    examples, model = stage.input("examples"), stage.input("model")
    assert section
    assert examples
    assert model
    folder = Path(plan.path(examples))
    update = {
        "model": section.model.model_copy(update={"name": plan.path(model)}),
        "data": section.data.model_copy(update={"sources": [str(folder / name) for name in pair_files(plan.config)]}),
    }
    config = section.model_copy(update=update)
    if model.stage:
        # The encoder brings its contract along; of that, only the pairing is the recipe's to choose.
        pairing = {name: getattr(section.encoder, name) for name in ("query_prompt", "passage_prompt")}
        parts = {
            name: getattr(config, name) for name in FinetuneConfig.model_fields if name not in ("prompts", "encoder")
        }
        config = FinetuneConfig(**parts, encoder=FinetuneEncoderSettings(**pairing))
    finetune_model(config, plan.folder(stage))


def _encode(plan: RunPlan, stage: PlannedStage) -> None:
    config, model = plan.config, stage.input("model")
    assert config.encode
    assert model
    corpus = config.encode.corpus or config.corpus
    encoder, folder = load_encoder(plan, model), plan.folder(stage)
    source = {
        "corpus": corpus, "fingerprint": corpus_fingerprint(corpus), "model": encoder.spec.to_json(folder)
    }  # fmt: skip
    write_store(
        lambda: read_passages(corpus), encoder, folder, source=source, shard_size=config.encode.shard_size,
        dtype="float16" if config.encode.half else "float32", total=exact_count(corpus),
    )  # fmt: skip


def _index(plan: RunPlan, stage: PlannedStage) -> None:
    settings, store, model = plan.config.index, stage.input("store"), stage.input("model")
    assert settings
    assert store

    def words() -> VocabularyView:
        assert model
        return VocabularyView(load_encoder(plan, model), language=settings.language)

    index_store(
        plan.path(store), plan.folder(stage), kind=settings.kind, words=words if settings.sparse else None,
        bm25=settings.language if settings.bm25 else None, overwrite=True,
    )  # fmt: skip


def load_encoder(plan: RunPlan, model: Input, settings: EncoderSettings | None = None) -> Encoder:
    """Load a model of the run: an encoder with its contract, or the LLM as it comes under the recipe's prompts.

    Args:
        plan: The run.
        model: Which.
        settings: Of an LLM without a contract; None = the recipe's.
    """
    config = plan.config
    if model.stage or carries_contract(model.where):
        return Encoder.load(plan.path(model), settings=config.model)
    return Encoder.load(model.where, settings=config.model, prompts=config.prompts, encoder=settings or config.encoder)


# ------------------------------------------------------------------------------------------------------- evaluate


def _evaluate(plan: RunPlan, stage: PlannedStage) -> None:
    """Score every system on every task; each report is a file of its own, so that a killed evaluation goes on."""
    config, folder = plan.config.evaluate, plan.folder(stage)
    assert config
    tasks = [*(partial(_retrieval, plan, stage, task) for task in config.data)]
    similarity = [partial(_similarity, plan, file) for file in config.sts]
    by_task: dict[str, list[Report]] = {}
    # One model at a time: hybrid has that of the system before it.
    loaded: dict[str, Encoder] = {}
    for system in systems(plan.config):

        def load(system: str = system) -> Encoder:
            name = _model_name(plan, system)
            if name not in loaded:
                loaded.clear()
                model = stage.input(system)
                assert model
                loaded[name] = load_encoder(plan, model, raw_encoder(plan.config) if name == "raw" else None)
            return loaded[name]

        for score in [*tasks, *(similarity if system not in ("bm25", "hybrid") else [])]:
            report = score(system, load)
            by_task.setdefault(report.task, []).append(report)
    summary = [reports_to_json(reports) for reports in by_task.values()]
    for reports in by_task.values():
        if reports[0].per_query:
            write_per_query(folder / f"{_stem(reports[0].task)}.per-query.tsv", reports, overwrite=True)
    tables = "\n\n".join(f"## {task}\n\n{markdown_table(reports)}" for task, reports in by_task.items())
    write_output(folder / "report.md", f"# Scores\n\n{tables}\n", overwrite=True)
    shutil.rmtree(_work_folder(folder), ignore_errors=True)
    # Last: with it the report is whole.
    write_json(folder / SUMMARY, {"tasks": summary}, overwrite=True)


def _model_name(plan: RunPlan, system: str) -> str:
    return hybrid_model(plan.config) if system == "hybrid" else system


def _stem(task: str) -> str:
    return task.replace("/", "-")


def _work_folder(report: Path) -> Path:
    return report / ".unfinished"


def _retrieval(
    plan: RunPlan, stage: PlannedStage, task: RetrievalTask, system: str, load: Callable[[], Encoder]
) -> Report:
    config = plan.config.evaluate
    assert config
    name, language = f"{Path(task.folder).resolve().name}-{task.split}", words_language(plan.config)

    def score() -> Report:
        if system == "bm25":
            return score_bm25(task.folder, task.split, measures=config.measures, depth=config.depth, language=language)
        encoded = _work_folder(plan.folder(stage)) / f"{name}--{_model_name(plan, system)}"
        return score_retrieval(
            load(), task.folder, task.split, name=system, measures=config.measures, depth=config.depth,
            store=_finished_store(plan, stage, system, task.folder) or encoded,
            mode="hybrid" if system == "hybrid" else "dense", language=language,
        )  # fmt: skip

    return _kept(_work_folder(plan.folder(stage)) / f"{name}--{system}.json", score)


def _similarity(plan: RunPlan, file: str, system: str, load: Callable[[], Encoder]) -> Report:
    stage = next(stage for stage in plan.stages if stage.kind == "evaluate")
    name = f"sts-{Path(file).name}--{system}"
    return _kept(_work_folder(plan.folder(stage)) / f"{name}.json", lambda: score_similarity(load(), file, name=system))


def _kept(file: Path, score: Callable[[], Report]) -> Report:
    """Return the report that an earlier, killed evaluation wrote; else make it."""
    if file.is_file():
        return Report(**json.loads(file.read_text(encoding="utf-8")))
    report = score()
    # Back from JSON in both cases, so that a resumed evaluation ends with the same report.
    write_json(file, dataclasses.asdict(report), overwrite=True)
    return Report(**json.loads(file.read_text(encoding="utf-8")))


def _finished_store(plan: RunPlan, stage: PlannedStage, system: str, folder: str) -> VectorStore | None:
    """Return the run's own store where it holds this task's corpus as this system sees it."""
    encoded = next((one for one in plan.stages if one.kind == "encode"), None)
    if encoded is None or not (plan.folder(encoded) / "store.json").is_file():
        return None
    model, corpus, scored = encoded.input("model"), encoded.input("corpus"), stage.input(system)
    assert model
    assert corpus
    same_model = scored is not None and scored.stage and (model.where, model.stage) == (scored.where, scored.stage)
    exact = plan.config.encode is not None and not plan.config.encode.half
    if not same_model or not exact or corpus.fingerprint != corpus_fingerprint(folder):
        return None
    return VectorStore.open(plan.folder(encoded))


_WORK = cast(
    "dict[str, Callable[[RunPlan, PlannedStage], Any]]",
    {
        "adapt": _adapt, "pairs": _pairs, "mine": _mine, "finetune": _finetune,
        "encode": _encode, "index": _index, "evaluate": _evaluate,
    },
)  # fmt: skip
