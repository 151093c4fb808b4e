"""Estimate how long a run will take and how much memory, before it starts: from its config, its texts, this machine.

No weights are loaded. Parameters are counted on a model without storage, tokens on a sample of the texts, and the
machine's rate is that of two of the model's layers with random weights.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, cast

import numpy as np
import torch

from llama2vec.adapt.micro_batches import most_cells
from llama2vec.adapt.pairs import MOST_HELD_OUT
from llama2vec.adapt.settings import AdaptConfig
from llama2vec.config import EncoderSettings
from llama2vec.data.corpus.passages import corpus_fingerprint
from llama2vec.data.settings import ReadingSettings
from llama2vec.finetune.settings import FinetuneConfig, ValidationSettings
from llama2vec.finetune.train import held_cells, micro_batch_cells
from llama2vec.finetune.validation import wanted_rows
from llama2vec.integrations.pair_scorer import PairScorer
from llama2vec.model.batching import cells_per_batch, padded_batches
from llama2vec.model.device import choose_device, choose_dtype
from llama2vec.pipeline.plan import TOGETHER, PlannedStage, RunPlan, adaptation_corpus, mining_corpora, writing_model
from llama2vec.pipeline.rates import Rates, cache_width, forward_operations, model_shape
from llama2vec.pipeline.samples import SAMPLE, Lengths, Samples
from llama2vec.pipeline.systems import systems
from llama2vec.processes import launched_processes
from llama2vec.score.corpora import tasks_data
from llama2vec.terminal import counted
from llama2vec.training.memory import ModelShape, training_memory
from llama2vec.training.settings import OptimizerSettings

PROCESS_BYTES = 0.6 * 2**30
"""Python, torch and transformers themselves."""
_SECONDS_A_PAIR, _SECONDS_A_BYTE_READ = 1e-4, 3e-6
START_SECONDS = 5.0
"""A stage that loads a model, and saves one or a store, took 4 to 6 s more than its steps on two CPU cores."""
_SLOWER_A_TOKEN = 8
"""What a written token costs beside one that is read."""


class StageEstimate(NamedTuple):
    """Seconds of work of one stage, and bytes at its peak: the process's memory, on a GPU the device's."""

    seconds: float
    memory_bytes: float


class RunEstimate(NamedTuple):
    """The estimate of each stage by name, and what they assume, in sentences."""

    stages: dict[str, StageEstimate]
    assumptions: list[str]


class _Estimator:
    """Estimates stages; samples each source of texts once."""

    def __init__(self, plan: RunPlan, flops: float | None, labeled: ReadingSettings | None, *, alone: bool) -> None:
        self.config, self.alone = plan.config, alone
        settings = self.config.model
        self.device = choose_device(settings.device)
        self.dtype = choose_dtype(settings.dtype, self.device)
        self.rates = Rates(settings, self.dtype, self.device, flops)
        self.shape = self.rates.shape
        self.texts = Samples(self.config, labeled)
        self.notes = self.texts.notes

    def _writing_seconds(self) -> float:
        """Estimate the time of writing questions: reading prompts, then one token after the other."""
        pairs = self.config.pairs
        if not pairs or not pairs.generated:
            return 0.0
        settings, (asked, each) = pairs.generated, self.texts.asked()
        prompt = self.texts.count([settings.prompt])[0]
        length = self.texts.corpus(self.config.corpus).mean(settings.passage_max_tokens, prompt)
        # Every question of a passage reads its prompt, and a token at a time uses a fraction of the rate.
        tokens = asked * each * (length + _SLOWER_A_TOKEN * settings.question_max_tokens)
        shape = model_shape(writing_model(self.config))
        return tokens * 2 * shape.passed / self.rates.reading(length)

    def of(self, stage: PlannedStage) -> StageEstimate:
        found = cast(StageEstimate, getattr(self, f"_{stage.kind}")(stage))
        return found._replace(seconds=found.seconds + START_SECONDS * (stage.kind in TOGETHER))

    def _training(
        self,
        config: AdaptConfig | FinetuneConfig,
        steps: int,
        tokens: float,
        cells: float,
        reread: float,
        length: float,
    ) -> StageEstimate:
        """Estimate training: ``tokens``, padding included, are read per step in sequences of mean ``length``.

        A share ``reread`` of them is read twice; ``cells`` are those whose activations are held at once.
        """
        settings, processes = config.model, launched_processes()
        lora = settings.lora.rank > 0
        depth = settings.lora.depth if lora else 1.0
        # Backward: the gradients of the inputs cost another forward, those of the weights one more in full training.
        passes = 1 + reread + settings.gradient_checkpointing * depth + depth * (1 if lora else 2)
        # As `training_precision` has it: full training does not compute in float16.
        itemsize = 4 if self.dtype == torch.float16 and not lora else self.dtype.itemsize
        memory = training_memory(
            self.shape, settings, config.optimizer, cells=cells, itemsize=itemsize, processes=processes
        )
        stage = "adapt" if isinstance(config, AdaptConfig) else "finetune"
        self.notes.append(f"{stage}: {memory}" + (f", of {processes}" if processes > 1 else ""))
        operations = steps * passes * forward_operations(self.shape, tokens, length)
        return StageEstimate(operations / self.rates.training(length, settings), memory.total + PROCESS_BYTES)

    def _note_few(self, stage: str, examples: float, settings: OptimizerSettings) -> None:
        """Note that a stage would refuse its data; a note and not an error, since their number is estimated."""
        if examples < settings.batch_size * launched_processes():
            section = "" if self.alone else f"{stage}."
            self.notes.append(
                f"{stage}: about {examples:,.0f} training examples do not fill a batch of {settings.batch_size}, so it "
                f"would stop; give more texts or lower {section}optimizer.batch_size"
            )

    def _reading(self, texts: Lengths, most: int) -> float:
        return reading_seconds(texts, most, self.texts.prompt, self.rates)

    @property
    def _inference_bytes(self) -> float:
        return inference_bytes(self.shape, self.device, self.dtype, compiled=bool(self.config.model.compile))

    def _writing_bytes(self) -> float:
        """Estimate the memory of the LLM that writes questions: its weights, and what a batch of passages takes."""
        assert self.config.pairs
        assert self.config.pairs.generated
        settings, name = self.config.pairs.generated, writing_model(self.config)
        shape, rows = model_shape(name), settings.batch_size * settings.questions
        prompt = self.texts.count([settings.prompt])[0] + settings.passage_max_tokens
        kept = (prompt + settings.question_max_tokens) * cache_width(name) + prompt * shape.inner
        self.notes.append(f"pairs: {name} writes, with {shape.parameters / 1e6:,.1f} million parameters")
        return (shape.parameters + rows * kept) * self.dtype.itemsize + rows * shape.vocabulary * 4 + PROCESS_BYTES

    def _teacher_bytes(self) -> float:
        name = self.config.mine.teacher if self.config.mine else ""
        if not name:
            return 0.0
        size, note = teacher_bytes(name)
        self.notes.append(f"mine: {note}")
        return size

    @property
    def _encoder(self) -> EncoderSettings:
        section = self.config.finetune or self.config.adapt
        return section.encoder if section else self.config.encoder

    def _adapt(self, stage: PlannedStage) -> StageEstimate:
        config = self.config.adapt
        assert config
        texts = self.texts.corpus(adaptation_corpus(self.config), whole=True)
        # The length in words is drawn evenly; the sample says how many tokens there are per byte, at six bytes a word.
        per_word = 6 * fmean(texts.tokens) / max(texts.bytes, 1.0)
        words = (config.text.min_words + config.text.max_words) / 2
        length = min(words * per_word, config.text.max_tokens) + 2 * self.texts.prompt
        most = min(config.text.max_words * per_word, config.text.max_tokens) + 2 * self.texts.prompt
        settings = config.optimizer
        cells = settings.batch_size * most
        limit = most_cells(config.objective.micro_batch_tokens, self.device.type)
        drawn = np.linspace(config.text.min_words * per_word, config.text.max_words * per_word, settings.batch_size)
        batch = [min(one, config.text.max_tokens) + 2 * self.texts.prompt for one in drawn]
        found = self._training(
            config, settings.steps, settings.accumulation * _cells(batch, limit),
            min(cells, max(limit, most)) if limit else cells, 0.0, length,
        )  # fmt: skip
        slots = 2 * max(self.config.prompts.slots, 1)
        logits = settings.batch_size * slots * self.shape.vocabulary * 4 * 4
        # The head is read at the slots, forwards and backwards in training.
        head = slots * 2 * self.shape.vocabulary * self.shape.width
        training = settings.steps * settings.accumulation * settings.batch_size * 2 * head
        read = min(config.text.limit or texts.total, texts.total)
        pieces = read * fmean(texts.tokens) / (words * per_word)
        self._note_few("adapt", max(pieces, read), settings)
        held_out = min(MOST_HELD_OUT, round(config.text.held_out * pieces)) * _validations(settings, settings.steps)
        validation = held_out * (forward_operations(self.shape, length, length) + head)
        seconds = found.seconds + (training + validation) / self.rates.reading(length)
        return StageEstimate(seconds, found.memory_bytes + logits)

    def _read(self, stage: PlannedStage) -> StageEstimate:
        texts = self.texts.corpus(stage.input("corpus").where)
        return StageEstimate(_SECONDS_A_BYTE_READ * texts.total * texts.bytes, PROCESS_BYTES)

    def _pairs(self, stage: PlannedStage) -> StageEstimate:
        queries, passages = self.texts.pairs
        writing = self._writing_seconds()
        seconds = _SECONDS_A_PAIR * (queries.total + passages.total) + writing
        return StageEstimate(seconds, self._writing_bytes() if writing else PROCESS_BYTES)

    def _mine(self, stage: PlannedStage) -> StageEstimate:
        queries, _ = self.texts.pairs
        searched = mining_corpora(self.config)
        corpora = [self.texts.corpus(source) for source in {*searched.values()} - {""}]
        own = [self.texts.passages_of(name) for name, source in searched.items() if not source]
        if own:
            passages = counted(sum(texts.total for texts in own), "passage")
            self.notes.append(f"{stage.name}: searches the {passages} of the examples, where no corpus is named")
        corpora += own
        memory = 3 * sum(texts.total * texts.bytes for texts in corpora) + self._teacher_bytes()
        if not stage.find_input("model"):
            return StageEstimate(0.0, memory + PROCESS_BYTES)
        seconds = sum(self._reading(texts, self._encoder.passage_max_tokens) for texts in corpora)
        seconds += self._reading(queries, self._encoder.query_max_tokens)
        return StageEstimate(seconds, memory + self._inference_bytes)

    def _finetune(self, stage: PlannedStage) -> StageEstimate:
        config = self.config.finetune
        assert config
        queries, passages = self.texts.pairs
        encoder, data, settings = self._encoder, config.data, config.optimizer
        lengths = (
            min(encoder.query_max_tokens, data.query_max_tokens or encoder.query_max_tokens),
            min(encoder.passage_max_tokens, data.passage_max_tokens or encoder.passage_max_tokens),
        )
        asked, length = queries.mean(lengths[0], self.texts.prompt), passages.mean(lengths[1], self.texts.prompt)
        # What mining will find is unknown yet; without mining, a query has the negatives of its source.
        mined, most = self.config.mine, config.contrastive.negatives
        there = mined.negatives if mined else self.texts.negatives()
        each = config.contrastive.positives + (min(there, most) if mined else self.texts.negatives(most))
        a_step = settings.batch_size * settings.accumulation
        apart = config.validation.held_out_share
        trained = max(1.0, queries.total - wanted_rows(round(queries.total), apart, config.validation.max_queries))
        if queries.total:
            self._note_few("finetune", trained, settings)
        steps = settings.steps or max(1, round(settings.epochs * trained / a_step))
        cells = settings.batch_size * (asked + each * length)
        graph = held_cells(
            config.contrastive.graph_tokens, self.device.type, self.shape, self.dtype.itemsize, launched_processes()
        )
        held = min(cells, max(graph, length))
        reread = 1 - held / cells + (config.contrastive.false_negatives == "start")
        batch = queries.drawn(settings.batch_size, lengths[0], self.texts.prompt)
        batch += passages.drawn(round(settings.batch_size * each), lengths[1], self.texts.prompt)
        tokens = settings.accumulation * _cells(batch, micro_batch_cells(config.contrastive, self.device.type))
        found = self._training(config, steps, tokens, held, reread, length)
        validation = _validations(settings, steps) * self._validation(config.validation, there)
        return StageEstimate(found.seconds + validation, found.memory_bytes)

    def _validation(self, settings: ValidationSettings, negatives: float) -> float:
        """Estimate the seconds of one search of the held-out queries, each with a positive and its negatives."""
        queries, positives = self.texts.pairs
        held_out = queries.total if settings.source else round(settings.share * queries.total)
        asked = min(settings.max_queries, held_out)
        if not asked:
            return 0.0
        # Mined negatives, and what else is searched, are passages as they stand in the corpus.
        others = self.texts.corpus(self.config.corpus) if self.config.mine and self.config.corpus else positives
        encoder = self._encoder
        return sum(
            self._reading(texts._replace(total=round(count)), most)
            for texts, count, most in (
                (queries, asked, encoder.query_max_tokens),
                (positives, asked, encoder.passage_max_tokens),
                (others, asked * negatives + settings.extra_passages, encoder.passage_max_tokens),
            )
        )

    def _encode(self, stage: PlannedStage) -> StageEstimate:
        texts = self.texts.corpus(self.config.encoded_corpus)
        return StageEstimate(self._reading(texts, self._encoder.passage_max_tokens), self._inference_bytes)

    def _index(self, stage: PlannedStage) -> StageEstimate:
        assert self.config.index
        texts = self.texts.corpus(self.config.encoded_corpus)
        held = 0 if self.config.index.kind == "exact" else texts.total * self.shape.width * 4
        return StageEstimate(1.0, held + PROCESS_BYTES)

    def _evaluate(self, stage: PlannedStage) -> StageEstimate:
        assert self.config.evaluate
        # Hybrid combines what BM25 and a model found.
        models = len([name for name in systems(self.config) if name not in ("bm25", "hybrid")])
        seconds = 0.0
        scoring = self.config.evaluate
        for data in tasks_data(scoring.tasks, scoring.data_root, scoring.reading):
            if data.retrieval:
                encoded = self._is_encoded(data.fingerprints["corpus_fingerprint"])
                texts = self.texts.corpus(data.retrieval.corpus_source, reading=scoring.reading)
                seconds += self._reading(texts, self._encoder.passage_max_tokens) * (models - encoded)
                asked, sides = [query.text for query in data.retrieval.queries], 1
            else:
                asked, sides = [pair.first for pair in data.pairs], 2
            lengths = Lengths(self.texts.count(asked[:SAMPLE]), len(asked) * sides)
            seconds += models * self._reading(lengths, self._encoder.query_max_tokens)
        return StageEstimate(seconds, self._inference_bytes)

    def _is_encoded(self, fingerprint: str) -> bool:
        """Tell whether the run's own store serves the last model on this task."""
        encode = self.config.encode
        if encode is None or encode.vector_format != "float32" or not (self.config.adapt or self.config.finetune):
            return False
        return fingerprint == corpus_fingerprint(self.config.encoded_corpus)


def reading_seconds(texts: Lengths, most: int, prompt: int, rates: Rates) -> float:
    """Estimate the time of reading texts, each cut after ``most`` tokens, with a prompt of so many more."""
    length = texts.mean(most, prompt)
    return texts.total * forward_operations(rates.shape, length, length) / rates.reading(length)


def inference_bytes(shape: ModelShape, device: torch.device, dtype: torch.dtype, *, compiled: bool) -> float:
    """Estimate the memory of a process in which a model reads: its weights, and what a batch takes."""
    cells = cells_per_batch(device.type, compiled=compiled)
    return (shape.parameters + cells * shape.inner) * dtype.itemsize + PROCESS_BYTES


def teacher_bytes(name: str) -> tuple[float, str]:
    """Return the size of a teacher's weights as they lie on the disk, and a sentence that says so."""
    folder = Path(PairScorer(name).source.location)
    found = [*folder.rglob("*.safetensors")] or [*folder.rglob("*.bin")]
    size = float(sum(file.stat().st_size for file in found))
    return size, f"the teacher {name} takes {size / 2**30:,.2f} GiB, its weights as they are stored"


def _validations(settings: OptimizerSettings, steps: int) -> int:
    """Return how often a training validates: every so many steps, and after the last one."""
    return ceil(steps / settings.validate_every) if settings.validate_every else 1


def _cells(batch: Sequence[float], most: int) -> int:
    """Return the tokens and padding of sequences that are read in micro-batches of at most so many."""
    sequences = [range(max(1, round(length))) for length in batch]
    return sum(part.input_ids.numel() for part in padded_batches(sequences, most or sys.maxsize, 0))


def estimate_run(
    plan: RunPlan,
    stages: Sequence[PlannedStage],
    flops: float | None = None,
    labeled: ReadingSettings | None = None,
    *,
    alone: bool = False,
) -> RunEstimate:
    """Estimate stages of a run.

    Args:
        plan: The run.
        stages: Those of its stages that are estimated.
        flops: FLOP/s of matrix products on its machine; None = measured here.
        labeled: Names the fields of all labeled sources; None = as the run reads each of them.
        alone: The stage is a command of its own, whose settings have no section before their names.
    """
    estimator = _Estimator(plan, flops, labeled, alone=alone)
    found = {stage.name: estimator.of(stage) for stage in stages}
    shape, on = estimator.shape, f"{str(estimator.dtype).removeprefix('torch.')} on {estimator.device.type}"
    within = 1.5 if estimator.rates.are_measured else 2
    notes = [
        f"{plan.config.model.name}: {shape.parameters / 1e6:,.1f} million parameters, {shape.body / 1e6:,.1f} million "
        "in the layers (from its config; no weights loaded)",
        f"{estimator.rates.described} ({on}); one process",
        *dict.fromkeys(estimator.notes),  # Rounds of one stage have the same
        "not counted: BM25, a teacher's scores, reading and writing files",
        f"expect them to be right within a factor of {within}, if nothing else runs",
    ]
    return RunEstimate(found, notes)
