"""How long a run will take and how much memory, before it starts: from config, a sample of the texts and this machine.

Nothing here loads weights. Parameters are counted on a model without storage, tokens on a sample, and the machine's
rate is that of a short matrix product; :data:`_SHARE_OF_RATE` says how much of it a model reaches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from statistics import fmean

import torch

from llama2vec.adapt.micro_batches import most_cells
from llama2vec.config import EncoderSettings, ModelSettings, OptimizerSettings
from llama2vec.data.corpus import corpus_fingerprint, count_passages, read_passages
from llama2vec.data.corpus_pairs import pairs_from_corpus
from llama2vec.data.examples import read_examples
from llama2vec.finetune.train import GRAPH_TOKENS
from llama2vec.model.backbone import choose_device, choose_dtype, load_tokenizer
from llama2vec.model.encoder import BATCH_TOKENS
from llama2vec.model.prompt import Tokenizer
from llama2vec.pipeline.machine import ModelShape, measured_rate, model_shape
from llama2vec.pipeline.plan import PlannedStage, RunPlan, adaptation_corpus, mining_corpora, pair_files, systems
from llama2vec.pipeline.settings import RunConfig
from llama2vec.records import Passage, TrainingExample
from llama2vec.score.tasks import tasks_data

_SHARE_OF_RATE = 0.4
"""Of the rate of a large matrix product that a step reaches: 0.39 to 0.48 measured on a CPU (docs/results.md)."""
_PROCESS_BYTES = 0.6 * 2**30
"""Python, torch and transformers themselves."""
_SAMPLE, _SAMPLED_FROM, _MOST_EXAMPLES = 256, 20_000, 200_000
_SECONDS_A_PAIR = 1e-4


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """Of one stage, from its beginning to its end.

    Attributes:
        seconds: Of work.
        memory_bytes: At the peak, the process included: the device's memory on a GPU.
    """

    seconds: float
    memory_bytes: float


@dataclass(frozen=True, slots=True)
class RunEstimate:
    """Of a run.

    Attributes:
        stages: Stage name → estimate.
        assumptions: What they rest on, a sentence each.
    """

    stages: dict[str, StageEstimate]
    assumptions: list[str]


@dataclass(frozen=True)
class Lengths:
    """Token counts of a sample, and how many texts there are in all.

    Attributes:
        tokens: Of each sampled text, without prompts.
        total: Number of texts.
        bytes: Mean size of a text.
    """

    tokens: Sequence[int]
    total: int
    bytes: float = 0.0

    def mean(self, most: int, prompt: int) -> float:
        """Return mean tokens of a text that is cut at ``most``, with its prompt."""
        return fmean(min(count, most) for count in self.tokens) + prompt if self.tokens else float(prompt)


@dataclass
class _Estimator:
    plan: RunPlan
    shape: ModelShape
    tokenizer: Tokenizer
    rate: float
    device: torch.device
    dtype: torch.dtype
    notes: list[str] = field(default_factory=list)
    _corpora: dict[str, Lengths] = field(default_factory=dict)
    _sampled_pairs: tuple[Lengths, Lengths] | None = None
    _negatives: list[int] = field(default_factory=list)

    @property
    def config(self) -> RunConfig:
        return self.plan.config

    def of(self, stage: PlannedStage) -> StageEstimate:
        estimate = {
            "adapt": self._adapt, "pairs": self._write_pairs, "mine": self._mine, "finetune": self._finetune,
            "encode": self._encode, "index": self._index, "evaluate": self._evaluate,
        }[stage.kind]  # fmt: skip
        return estimate(stage)

    # ------------------------------------------------------------------------------------------------ texts

    def _count(self, texts: Iterable[str]) -> list[int]:
        texts = list(texts)
        return [len(ids) for ids in self.tokenizer(texts, add_special_tokens=False)["input_ids"]] if texts else []

    def corpus(self, source: str) -> Lengths:
        """Sample a corpus evenly from its first passages; its size is counted where that can be done."""
        if source not in self._corpora:
            total = count_passages(source)
            head = min(total or _SAMPLED_FROM, _SAMPLED_FROM)
            sample = [one.full_text for one in islice(read_passages(source), 0, head, max(1, head // _SAMPLE))]
            counts = self._count(sample)
            known = f"{total:,} passages" if total else f"unknown size, counted as {head:,} passages"
            self.notes.append(
                f"{source}: {known}, {fmean(counts):,.0f} tokens each (mean of {len(counts)} from the first {head:,})"
            )
            size = fmean(len(text.encode("utf-8", "replace")) for text in sample)
            self._corpora[source] = Lengths(counts, total or head, size)
        return self._corpora[source]

    def pairs(self) -> tuple[Lengths, Lengths]:
        """Return the lengths of queries and passages of the training pairs."""
        if self._sampled_pairs is None:
            queries: list[str] = []
            passages: list[str] = []
            total = 0
            for source in pair_files(self.config).values():
                if source is None:
                    found, count = self._own_pairs()
                else:
                    most = min(source.limit or _MOST_EXAMPLES, _MOST_EXAMPLES)
                    found, count = _head(read_examples(source.source, split=source.split, limit=most))
                    capped = " (not counted further)" if count == _MOST_EXAMPLES else ""
                    self.notes.append(f"{source.source}: {count:,} labeled queries{capped}")
                total += count
                queries += [example.query for example in found]
                passages += [example.positives[0] for example in found]
                self._negatives += [len(example.negatives) for example in found]
            self._sampled_pairs = Lengths(self._count(queries), total), Lengths(self._count(passages), total)
        return self._sampled_pairs

    def _own_pairs(self) -> tuple[list[TrainingExample], int]:
        assert self.config.pairs
        assert self.config.pairs.from_corpus
        source = self.config.corpus
        head: list[Passage] = list(islice(read_passages(source), 2 * _SAMPLE))
        found = list(pairs_from_corpus(head, self.config.pairs.from_corpus, self.config.pairs.seed))
        read = self.config.pairs.from_corpus.limit or self.corpus(source).total
        count = round(len(found) / len(head) * min(read, self.corpus(source).total))
        self.notes.append(
            f"{source}: {len(found) / len(head):.1f} pairs a passage by itself (from the first {len(head)})"
        )
        return found[:: max(1, len(found) // _SAMPLE)], count

    def _prompt(self) -> int:
        """Return the tokens of the longer prompt with its slots."""
        prompts = self.config.prompts
        return max(self._count([prompts.prefix + prompts.self_prompt, prompts.prefix + prompts.next_prompt])) + max(
            prompts.slots, 1
        )

    # ---------------------------------------------------------------------------------------------- arithmetic

    def _seconds(self, operations: float) -> float:
        return operations / (self.rate * _SHARE_OF_RATE)

    def _forward(self, tokens: float, length: float) -> float:
        """Operations of one forward pass: two for each weight and token, and causal attention."""
        return tokens * (2 * self.shape.body + 2 * self.shape.layers * length * self.shape.width)

    def _size(self, dtype: torch.dtype | None = None) -> int:
        return torch.empty(0, dtype=dtype or self.dtype).element_size()

    def _activations(self, cells: float) -> float:
        """Bytes that the backward pass keeps: inputs of every linear projection, norm and activation of a layer."""
        mlp = (self.shape.body / self.shape.layers) / self.shape.width
        return cells * self.shape.layers * (6 * self.shape.width + 1.3 * mlp) * self._size()

    def _training(
        self, settings: ModelSettings, steps: int, tokens: float, cells: float, reread: float, length: float
    ) -> StageEstimate:
        """Estimate a training stage.

        Args:
            settings: LoRA or full, gradient checkpointing.
            steps: Optimizer steps.
            tokens: Read in one step.
            cells: Whose activations are held at once.
            reread: Share of the tokens that is read a second time.
            length: Mean tokens of a sequence.
        """
        lora = settings.lora.rank > 0
        depth = settings.lora.depth if lora else 1.0
        # Backward: the gradients of the inputs cost another forward, those of the weights one more in full training.
        passes = 1 + reread + settings.gradient_checkpointing * depth + depth * (1 if lora else 2)
        trained = settings.lora.rank * self.shape.linear_width * depth if lora else self.shape.parameters
        held = self._activations(cells) * depth
        if settings.gradient_checkpointing:
            held /= self.shape.layers
        weights = self.shape.parameters * (self._size() if lora else 4)
        # Beside the weights themselves: gradient and two moments, in float32.
        memory = weights + trained * 4 * (4 if lora else 3) + held + _PROCESS_BYTES
        return StageEstimate(self._seconds(steps * passes * self._forward(tokens, length)), memory)

    def _reading(self, texts: Lengths, most: int) -> float:
        length = texts.mean(most, self._prompt())
        return self._seconds(texts.total * self._forward(length, length))

    @property
    def _inference_bytes(self) -> float:
        cells = BATCH_TOKENS.get(self.device.type, BATCH_TOKENS["cpu"])
        mlp = self.shape.body / self.shape.layers / self.shape.width
        return self.shape.parameters * self._size() + cells * mlp * self._size() + _PROCESS_BYTES

    @property
    def _encoder(self) -> EncoderSettings:
        for section in (self.config.finetune, self.config.adapt):
            if section is not None:
                return section.encoder
        return self.config.encoder

    # -------------------------------------------------------------------------------------------------- stages

    def _adapt(self, stage: PlannedStage) -> StageEstimate:
        config = self.config.adapt
        assert config
        texts = self.corpus(adaptation_corpus(self.config))
        # T's length in words is drawn evenly; the sample says how many tokens there are to a byte, six bytes a word.
        per_word = 6 * fmean(texts.tokens) / max(texts.bytes, 1.0)
        words = (config.text.min_words + config.text.max_words) / 2
        length = min(words * per_word, config.text.max_tokens) + 2 * self._prompt()
        most = min(config.text.max_words * per_word, config.text.max_tokens) + 2 * self._prompt()
        settings: OptimizerSettings = config.optimizer
        limit = most_cells(config.objective.micro_batch_tokens, self.device.type)
        found = self._training(
            config.model, settings.steps, settings.batch_size * settings.accumulation * length,
            min(settings.batch_size * most, max(limit, most)) if limit else settings.batch_size * most, 0.0, length,
        )  # fmt: skip
        slots = settings.batch_size * 2 * max(self.config.prompts.slots, 1)
        logits = slots * self.shape.vocabulary * 4 * 4
        head = settings.steps * settings.accumulation * slots * 4 * self.shape.vocabulary * self.shape.width
        return StageEstimate(found.seconds + self._seconds(head), found.memory_bytes + logits)

    def _write_pairs(self, stage: PlannedStage) -> StageEstimate:
        queries, passages = self.pairs()
        return StageEstimate(_SECONDS_A_PAIR * (queries.total + passages.total), _PROCESS_BYTES)

    def _mine(self, stage: PlannedStage) -> StageEstimate:
        queries, _ = self.pairs()
        sources = {source for source in mining_corpora(self.config).values() if source}
        texts = sum(self.corpus(source).total * self.corpus(source).bytes for source in sources)
        seconds, memory = 0.0, 3 * texts + _PROCESS_BYTES
        if stage.input("model"):
            seconds += sum(self._reading(self.corpus(source), self._encoder.passage_max_tokens) for source in sources)
            seconds += self._reading(queries, self._encoder.query_max_tokens)
            memory += self._inference_bytes - _PROCESS_BYTES
        return StageEstimate(seconds, memory)

    def _finetune(self, stage: PlannedStage) -> StageEstimate:
        config = self.config.finetune
        assert config
        queries, passages = self.pairs()
        prompt, encoder, data = self._prompt(), self._encoder, config.data
        asked = queries.mean(min(encoder.query_max_tokens, data.query_max_tokens or 10**9), prompt)
        length = passages.mean(min(encoder.passage_max_tokens, data.passage_max_tokens or 10**9), prompt)
        # What mining will find is not known yet; without it, a query has what its source gives.
        there = [self.config.mine.negatives] if self.config.mine else self._negatives
        each = config.contrastive.positives + fmean(min(count, config.contrastive.negatives) for count in there)
        settings = config.optimizer
        a_step = settings.batch_size * settings.accumulation
        trained = max(1.0, queries.total * (1 - (0 if config.validation.source else config.validation.share)))
        steps = settings.steps or max(1, round(settings.epochs * trained / a_step))
        kind = self.device.type if self.device.type in GRAPH_TOKENS else "cpu"
        cells = settings.batch_size * (asked + each * length)
        held = min(cells, max(config.contrastive.graph_tokens or GRAPH_TOKENS[kind], length))
        return self._training(config.model, steps, a_step * (asked + each * length), held, 1 - held / cells, length)

    def _encode(self, stage: PlannedStage) -> StageEstimate:
        assert self.config.encode
        texts = self.corpus(self.config.encode.corpus or self.config.corpus)
        return StageEstimate(self._reading(texts, self._encoder.passage_max_tokens), self._inference_bytes)

    def _index(self, stage: PlannedStage) -> StageEstimate:
        assert self.config.encode
        assert self.config.index
        texts = self.corpus(self.config.encode.corpus or self.config.corpus)
        held = 0 if self.config.index.kind == "exact" else texts.total * self.shape.width * 4
        if self.config.index.sparse:
            reading = self._reading(texts, self._encoder.passage_max_tokens)
            return StageEstimate(1.0 + reading, held + self._inference_bytes)
        return StageEstimate(1.0, held + _PROCESS_BYTES)

    def _evaluate(self, stage: PlannedStage) -> StageEstimate:
        assert self.config.evaluate
        # Hybrid joins what BM25 and a model found.
        models = [name for name in systems(self.config) if name not in ("bm25", "hybrid")]
        seconds, corpora = 0.0, 0.0
        for data in tasks_data(self.config.evaluate.tasks, self.config.evaluate.data_root):
            if data.retrieval:
                source, asked = data.retrieval.corpus_source, data.retrieval.queries
                reading = self._reading(self.corpus(source), self._encoder.passage_max_tokens)
                corpora += reading * (len(models) - self._is_encoded(data.fingerprints["corpus_fingerprint"]))
            sample = [query.text for query in asked] if data.retrieval else [pair.first for pair in data.pairs]
            lengths = Lengths(self._count(sample[:_SAMPLE]), len(sample) * (1 if data.retrieval else 2))
            seconds += self._reading(lengths, self._encoder.query_max_tokens)
        return StageEstimate(corpora + seconds * len(models), self._inference_bytes)

    def _is_encoded(self, fingerprint: str) -> bool:
        """Tell whether the run's own store serves the last model on this task."""
        encode = self.config.encode
        if encode is None or encode.half or not (self.config.adapt or self.config.finetune):
            return False
        return fingerprint == corpus_fingerprint(encode.corpus or self.config.corpus)


def _head(examples: Iterable[TrainingExample]) -> tuple[list[TrainingExample], int]:
    """Return the first examples, and how many there are."""
    kept: list[TrainingExample] = []
    count = 0
    for example in examples:
        count += 1
        if count <= _SAMPLE:
            kept.append(example)
    return kept, count


def estimate_run(plan: RunPlan, stages: Sequence[PlannedStage], flops: float | None = None) -> RunEstimate:
    """Estimate the stages of a run.

    Args:
        plan: The run.
        stages: Which.
        flops: Operations a second of a matrix product on the machine of the run; None = measured here.
    """
    settings = plan.config.model
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device)
    shape = model_shape(settings.name)
    tokenizer = load_tokenizer(settings.name)
    # Texts are counted before they are cut; the tokenizer would warn of each long one.
    tokenizer.model_max_length = int(1e30)
    rate = flops or measured_rate(dtype, device)
    estimator = _Estimator(plan, shape, tokenizer, rate, device, dtype)
    found = {stage.name: estimator.of(stage) for stage in stages}
    name = str(dtype).removeprefix("torch.")
    source = "as --flops says" if flops else f"measured here, {name} on {device.type}"
    notes = [
        f"{settings.name}: {shape.parameters / 1e6:,.1f} million parameters, {shape.body / 1e6:,.1f} million in the "
        "layers (from its config; no weights loaded)",
        f"{rate / 1e9:,.0f} GFLOP/s of matrix products ({source}), of which training and encoding reach "
        f"{_SHARE_OF_RATE:.0%}; one process, padding not counted",
        *estimator.notes,
        "not counted: BM25, reading and writing files, validation during training; memory is that of the process, "
        "on a GPU the device's",
        "expect them to be right within a factor of 2",
    ]
    return RunEstimate(found, notes)
