"""The work of each stage of a run: the same calls as the command of its name, on inputs and outputs of the run."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

from llama2vec.adapt.stage import adapt_model
from llama2vec.config import EncoderSettings
from llama2vec.data.corpus.passages import count_passages, read_passages
from llama2vec.data.corpus.reading import documents_folder
from llama2vec.data.corpus.rows import write_passages
from llama2vec.data.corpus.spread import is_spread
from llama2vec.data.corpus.steady import SteadyInputs
from llama2vec.data.documents.folder import ReadingReport
from llama2vec.data.examples.counting import limited_examples
from llama2vec.data.examples.labeled import write_examples
from llama2vec.data.examples.reported import is_reported, report_path
from llama2vec.data.examples.unlabeled import pairs_from_corpus
from llama2vec.data.settings import ReadingSettings
from llama2vec.files import write_atomic, write_output
from llama2vec.finetune.settings import FinetuneConfig, FinetuneEncoderSettings
from llama2vec.finetune.stage import finetune_model
from llama2vec.generate.generation import GenerationInputs, generate_to_file
from llama2vec.integrations.pair_scorer import PairScorer
from llama2vec.mine.mining import MiningInputs, discard_stores, encode_together, is_mined, mine_to_file
from llama2vec.mine.settings import MineSettings
from llama2vec.model.encoder import Encoder
from llama2vec.model.lengths import warn_of_cut
from llama2vec.model.prompt import count_longer
from llama2vec.model.tokens import corpus_splitter, passage_reading
from llama2vec.pipeline.plan import (
    GENERATED_PAIRS,
    TOGETHER,
    Input,
    PlannedStage,
    RunPlan,
    adaptation_corpus,
    fields_of,
    made_file,
    mining_corpora,
    pair_files,
    validation_fields,
)
from llama2vec.pipeline.record import PASSAGES_FILE, READING_FILE, REPORT, REPORT_FILE
from llama2vec.pipeline.settings import RunConfig
from llama2vec.pipeline.systems import hybrid_model, raw_encoder, read_documents_as, scored_tasks, systems
from llama2vec.processes import on_first_process, process_count, process_rank
from llama2vec.records import Report, TrainingExample
from llama2vec.retrieve.index.folder import build_index
from llama2vec.retrieve.store.number_format import dtype_at
from llama2vec.retrieve.store.reuse import KnownVectors, reusing
from llama2vec.retrieve.store.writer import warn_of_cut_passages, write_store
from llama2vec.score.evaluator import evaluate_tasks
from llama2vec.score.report.text import system_markdown
from llama2vec.score.systems import BM25, Stores, System
from llama2vec.terminal import counted

logger = logging.getLogger(__name__)

_UNFINISHED = ".unfinished"
_COUNTED_AT_ONCE = 1024
_USUAL = ReadingSettings()  # Rows with fields of other names are read by a stage of their own


def work(plan: RunPlan, stage: PlannedStage, *, overwrite: bool = False, folder: Path | None = None) -> None:
    """Run a stage; after a kill, it resumes.

    Of several processes, all run the stages that they share, and mining, whose corpus they encode together.

    Stages that several processes share replace an older output themselves, with ``overwrite``; the others write to
    ``folder`` (None = the stage's own).
    """
    if stage.kind in TOGETHER:
        _WORK[stage.kind](plan, stage, overwrite)
    else:
        _WORK[stage.kind](plan, stage, folder or plan.folder(stage))


def _adapt(plan: RunPlan, stage: PlannedStage, overwrite: bool) -> None:
    config = plan.config.adapt
    assert config
    text = config.text.model_copy(update={"corpus": adaptation_corpus(plan.config)})
    found = ReadingReport()
    adapt_model(config.model_copy(update={"text": text}), plan.folder(stage), overwrite=overwrite, report=found)
    if found.has_entries and not any(one.kind == "read" for one in plan.stages):
        logger.info("%s: %s", text.corpus, found.table())


def _read(plan: RunPlan, stage: PlannedStage, folder: Path) -> None:
    """Write the passages of documents with their places and fields, and what could not be read."""
    config, source, report = plan.config, stage.input("corpus").where, ReadingReport()
    splitter = corpus_splitter(source, read_documents_as(config), config.passages, config.reading)
    passages = read_passages(source, splitter=splitter, settings=config.reading, report=report)
    write_passages(plan.inputs.read(passages, [source]), folder / PASSAGES_FILE, overwrite=True)
    logger.info("%s: %s", source, report.summary())
    write_atomic(folder / READING_FILE, f"{source}: {report.table()}\n".encode())


def _pairs(plan: RunPlan, stage: PlannedStage, folder: Path) -> None:
    settings = plan.config.pairs
    assert settings
    _remove_unasked(folder, pair_files(plan.config))
    for name, source in pair_files(plan.config).items():
        if name == GENERATED_PAIRS:
            _generated_pairs(plan, stage, folder / name)
            continue
        if source:
            fields = fields_of(plan.config, source.source)
            rows = limited_examples(source.source, source.limit, split=source.split, reading=fields)
            found, where = plan.inputs.read(rows, [source.source]), source.source
        else:
            found, where = _own_pairs(plan, plan.path(stage.input("corpus")))
        count = write_examples(found, folder / name, overwrite=True)
        logger.info("%s: %s from %s", plan.folder(stage) / name, counted(count, "pair"), where)


def _remove_unasked(folder: Path, names: Iterable[str]) -> None:
    """Remove files that were taken over from the stage's older output, and that nothing in the recipe names now."""
    for path in [path for path in folder.glob("*.jsonl") if path.name not in names and is_reported(path)]:
        path.unlink()
        report_path(path).unlink()


def _own_pairs(plan: RunPlan, corpus: str) -> tuple[Iterator[TrainingExample], str]:
    """Return the pairs made from the run's corpus, and from how much of it."""
    assert plan.config.pairs
    assert plan.config.pairs.from_corpus
    settings, seed, where = plan.config.pairs.from_corpus, plan.config.pairs.seed, plan.config.corpus
    total = sum(1 for _ in read_passages(corpus, settings=_USUAL)) if settings.limit else 0
    _warn_of_cut_pairs(plan.config, corpus, settings.limit, total)
    if 0 < settings.limit < total:
        where = f"{settings.limit:,} of {counted(total, 'passage')} of {where}, spread evenly"
    passages = plan.inputs.read(read_passages(corpus, settings=_USUAL), [corpus])
    return pairs_from_corpus(passages, settings, seed, total), where


def _generated_pairs(plan: RunPlan, stage: PlannedStage, file: Path) -> None:
    """Let an LLM write questions for the corpus; what a kill has left of them is kept."""
    pairs = plan.config.pairs
    assert pairs
    assert pairs.generated
    loading = plan.config.model.all_layers.model_copy(update={"name": stage.input("writer").where})
    inputs = GenerationInputs(plan.path(stage.input("corpus")), loading)
    report = generate_to_file(inputs, file, pairs.generated, overwrite=True, again=False)
    shown = plan.folder(stage) / file.name
    if report is None:
        logger.info("%s: unchanged", shown)
    else:
        logger.info("%s\n%s: %s by %s", report.summary(), shown, counted(report.kept, "pair"), loading.name)


def _warn_of_cut_pairs(config: RunConfig, corpus: str, limit: int, corpus_size: int) -> None:
    """Warn of passages whose pairs training cuts, among those that give pairs."""
    tokenizer, most = passage_reading(read_documents_as(config))
    cut = total = 0
    numbered = enumerate(read_passages(corpus))
    passages = (one.full_text for number, one in numbered if is_spread(number, limit, corpus_size))
    while texts := list(islice(passages, _COUNTED_AT_ONCE)):
        cut, total = cut + count_longer(tokenizer, texts, most), total + len(texts)
    rest = "is not learned from; split them with --set passages.split=always"
    warn_of_cut(config.corpus, cut, total, rest)


def _mine(plan: RunPlan, stage: PlannedStage, folder: Path) -> None:
    config = plan.config
    assert config.mine
    settings = MineSettings.model_validate(config.mine.model_dump(include=set(MineSettings.model_fields)))
    pairs, model = Path(plan.path(stage.input("pairs"))), stage.find_input("model")
    encoder = load_encoder(plan, model) if model else None
    teacher = PairScorer(settings.teacher, config.model.device) if settings.teacher else None
    files: dict[Path, MiningInputs] = {}
    for name, corpus in mining_corpora(config).items():
        if corpus:
            corpus = plan.path(stage.input(f"corpus of {name}"))
        files[folder / name] = MiningInputs(
            str(made_file(pairs, name)), corpus=corpus, model=model.where if model else "",
            encoder=(lambda: encoder) if encoder else None, teacher=teacher,
            # Files that are mined from one corpus share its vectors.
            store_beside=next(iter(files), folder / name),
        )  # fmt: skip
    if encoder and process_count() > 1:
        _encode_for_mining(files, settings)
    if process_rank():
        return  # Mining may take longer than processes wait for each other; this one looks for its end in run.json
    _remove_unasked(folder, mining_corpora(config))
    for file, inputs in files.items():
        report, shown = (
            mine_to_file(inputs, file, settings, overwrite=True, again=False),
            plan.folder(stage) / file.name,
        )
        if report is None:
            logger.info("%s: unchanged", shown)
        else:
            logger.info("%s\n%s", report.summary(), f"report: {report_path(shown)}")
    for file in files:
        discard_stores(file)


def _encode_for_mining(files: Mapping[Path, MiningInputs], settings: MineSettings) -> None:
    """Encode the corpora of all files on all processes, before the first one mines them alone."""
    for file, inputs in files.items():
        # The first process looks whether a file is there already, so that all do the same.
        if not on_first_process(partial(is_mined, inputs, file, settings)):
            encode_together(inputs, file)
    on_first_process(lambda: None)


def _finetune(plan: RunPlan, stage: PlannedStage, overwrite: bool) -> None:
    section = plan.config.finetune
    assert section
    examples, model = Path(plan.path(stage.input("examples"))), stage.input("model")
    # model.layers of the run, which this section repeats, counts those of the LLM: the adaptation has kept them.
    is_kept = model.stage and section.model.layers == plan.config.model.layers
    loading = section.model.all_layers if is_kept else section.model
    sources = [str(made_file(examples, name)) for name in pair_files(plan.config)]
    pairs = stage.find_input("pairs")
    drawn_from = [str(made_file(Path(plan.path(pairs)), name)) for name in pair_files(plan.config)] if pairs else []
    update = {
        "model": loading.model_copy(update={"name": plan.path(model)}),
        "data": section.data.model_copy(update={"sources": sources}),
        "reading": validation_fields(plan.config),
    }
    config = section.model_copy(update=update)
    if model.stage:
        # The encoder keeps its contract; the recipe may change only the pairing of prompts.
        pairing = {name: getattr(section.encoder, name) for name in ("query_prompt", "passage_prompt")}
        kept = {name: getattr(config, name) for name in {*FinetuneConfig.model_fields} - {"prompts", "encoder"}}
        config = FinetuneConfig(**kept, encoder=FinetuneEncoderSettings(**pairing))
    finetune_model(config, plan.folder(stage), overwrite=overwrite, drawn_from=drawn_from)


def _encode(plan: RunPlan, stage: PlannedStage, overwrite: bool) -> None:
    config = plan.config
    assert config.encode
    read, folder = stage.input("corpus"), plan.folder(stage)
    encoder = load_encoder(_with_format_of_store(plan, folder), stage.input("model"))
    corpus = plan.path(read)
    # A corpus of documents was split into a file of the run; what the store names is the corpus itself.
    named = config.encoded_corpus if read.stage else corpus
    inputs = SteadyInputs()
    made_from = {
        "corpus": named, **documents_folder(named, config.reading), "fingerprint": inputs.corpus(corpus),
        "model": encoder.spec.to_json(folder),
    }  # fmt: skip
    vectors = config.encode.vector_format
    known = reusing(encoder, folder, vectors) if overwrite else encoder
    store = write_store(
        lambda: inputs.read(read_passages(corpus, settings=_USUAL)), known, folder, source=made_from,
        shard_size=config.encode.shard_size, dtype=vectors, total=count_passages(corpus), overwrite=overwrite,
    )  # fmt: skip
    if isinstance(known, KnownVectors):
        total = counted(len(store), "vector")
        logger.info("%s: took %s of %s from the store before", folder, f"{known.reused:,}", total)
    warn_of_cut_passages(store, "split them with --set passages.split=always", where=named)


def _with_format_of_store(plan: RunPlan, folder: Path) -> RunPlan:
    """Return the plan with the number format of its store for ``auto``: a run may continue where that means another."""
    model = plan.config.model
    if model.dtype != "auto" or not (found := dtype_at(folder)):
        return plan
    model = model.model_copy(update={"dtype": found})
    return replace(plan, config=plan.config.model_copy(update={"model": model}))


def _index(plan: RunPlan, stage: PlannedStage, folder: Path) -> None:
    settings = plan.config.index
    assert settings
    bm25 = settings.language if settings.bm25 else None
    build_index(plan.path(stage.input("store")), folder, kind=settings.kind, bm25=bm25, overwrite=True)


def load_encoder(plan: RunPlan, model: Input, settings: EncoderSettings | None = None) -> Encoder:
    """Load a model of the run: an encoder with its contract, or an LLM with the recipe's prompts and ``settings``."""
    config = plan.config
    if model.is_encoder:
        # The layers to keep are the training's choice, and an encoder that it starts from still has all of its own.
        trains = config.adapt or config.finetune
        return Encoder.load(plan.path(model), settings=config.model.all_layers if trains else config.model)
    return Encoder.load(model.where, settings=config.model, prompts=config.prompts, encoder=settings or config.encoder)


def _evaluate(plan: RunPlan, stage: PlannedStage, folder: Path) -> None:
    """Score each system into a folder of its own; what a killed evaluation finished is kept."""
    config = plan.config.evaluate
    assert config
    settings = config.model_copy(update={"language": plan.config.words_language})
    known = _reusable_stores(plan)
    stores = Stores(folder / _UNFINISHED, known)
    loading = _with_format_of_store(plan, known[0]) if known else plan
    reports: list[Report] = []
    loaded: dict[str, Encoder] = {}
    for name in systems(plan.config):
        encoder = None
        if name != BM25:
            # One model at a time; hybrid searches with that of the system before it.
            model = hybrid_model(plan.config) if name == "hybrid" else name
            if model not in loaded:
                loaded.clear()
                loaded[model] = load_encoder(
                    loading, stage.input(name), raw_encoder(plan.config) if model == "raw" else None
                )
            encoder = loaded[model]
        system = System(name, encoder, "hybrid" if name == "hybrid" else "dense")
        scores = evaluate_tasks(system, scored_tasks(config, name), folder / name, settings, stores=stores)
        reports += [score.report for score in scores]
    shutil.rmtree(folder / _UNFINISHED, ignore_errors=True)
    # Last, because it marks the report as whole.
    write_output(folder / REPORT, f"# Scores\n\n{system_markdown(reports)}\n", REPORT_FILE, overwrite=True)


def _reusable_stores(plan: RunPlan) -> tuple[Path, ...]:
    """Return the run's own store, unless its vectors are rounded."""
    encoded = next((one for one in plan.stages if one.kind == "encode"), None)
    exact = plan.config.encode is not None and plan.config.encode.vector_format == "float32"
    return (plan.folder(encoded),) if encoded and exact else ()


_WORK = cast(
    "dict[str, Callable[..., Any]]",
    {
        "read": _read, "adapt": _adapt, "pairs": _pairs, "mine": _mine, "finetune": _finetune,
        "encode": _encode, "index": _index, "evaluate": _evaluate,
    },
)  # fmt: skip
