"""Estimate how long a run will take and how much memory, before it starts: from its config, its texts, this machine.

No weights are loaded. Parameters are counted on a model without storage, tokens on a sample of the texts, and the
machine's rate is that of two of the model's layers with random weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from statistics import fmean
from typing import NamedTuple, cast

from llama2vec.adapt.joint import most_cells
from llama2vec.adapt.settings import AdaptConfig
from llama2vec.config import EncoderSettings
from llama2vec.data.corpus import corpus_fingerprint, read_passages
from llama2vec.data.examples import read_examples
from llama2vec.data.passages import Splitter
from llama2vec.data.sources import is_remote
from llama2vec.data.unlabeled import pairs_from_corpus
from llama2vec.finetune.settings import FinetuneConfig
from llama2vec.finetune.train import held_cells
from llama2vec.model.backbone import load_tokenizer
from llama2vec.model.batching import cells_per_batch
from llama2vec.model.device import choose_device, choose_dtype
from llama2vec.model.tokens import corpus_splitter
from llama2vec.pipeline.plan import (
    GENERATED_PAIRS,
    PlannedStage,
    RunPlan,
    adaptation_corpus,
    is_read_first,
    mining_corpora,
    pair_files,
    read_documents_as,
    systems,
    writing_model,
)
from llama2vec.pipeline.rates import Rates, forward_operations, model_shape
from llama2vec.processes import launched_processes
from llama2vec.records import Passage, TrainingExample
from llama2vec.score.tasks import tasks_data
from llama2vec.terminal import counted
from llama2vec.training.memory import training_memory

_PROCESS_BYTES = 0.6 * 2**30
"""Python, torch and transformers themselves."""
_SAMPLE, _SAMPLED_FROM, _MOST_EXAMPLES = 256, 20_000, 200_000
_SECONDS_A_PAIR, _SECONDS_A_BYTE_READ = 1e-4, 3e-6
_QUESTION_WORDS, _KEPT, _SLOWER_A_TOKEN = 10, 0.5, 8
"""Of generated questions: their words, the share that passes the filters, and what a token costs beside a read one."""


class StageEstimate(NamedTuple):
    """Seconds of work of one stage, and bytes at its peak: the process's memory, on a GPU the device's."""

    seconds: float
    memory_bytes: float


class RunEstimate(NamedTuple):
    """The estimate of each stage by name, and what they assume, in sentences."""

    stages: dict[str, StageEstimate]
    assumptions: list[str]


class _Lengths(NamedTuple):
    """Token counts of sampled texts without prompts, the total number of texts, and their mean size in bytes."""

    tokens: Sequence[int]
    total: int
    bytes: float = 0.0

    def mean(self, most: int, prompt: int) -> float:
        return fmean(min(count, most) for count in self.tokens) + prompt if self.tokens else float(prompt)


class _Estimator:
    """Estimates stages; samples each source of texts once."""

    def __init__(self, plan: RunPlan, flops: float | None) -> None:
        self.config = plan.config
        settings = self.config.model
        self.device = choose_device(settings.device)
        self.dtype = choose_dtype(settings.dtype, self.device)
        self.shape, self._tokenizer = model_shape(settings.name, settings.layers), load_tokenizer(settings.name)
        self.rates = Rates(settings, self.dtype, self.device, flops)
        self.notes: list[str] = []
        self._negatives: list[int] = []
        self._corpora: dict[tuple[str, bool], _Lengths] = {}
        self._splitters: dict[str, Splitter | None] = {}
        self._sampled: tuple[_Lengths, _Lengths] | None = None
        prompts = self.config.prompts
        both = [prompts.prefix + prompts.self_prompt, prompts.prefix + prompts.next_prompt]
        # Tokens of the longer prompt with its slots.
        self.prompt = max(self.count(both)) + max(prompts.slots, 1)

    def count(self, texts: Iterable[str]) -> list[int]:
        texts = list(texts)
        return [len(ids) for ids in self._tokenizer(texts, add_special_tokens=False)["input_ids"]] if texts else []

    def passages(self, source: str, *, whole: bool = False) -> Iterator[Passage]:
        """Read a corpus as its stages do: split, except for adaptation, which reads it ``whole``."""
        config = self.config
        if whole:
            return read_passages(source, settings=config.adapt.reading if config.adapt else None)
        if not is_read_first(config, source):
            return read_passages(source)
        if source not in self._splitters:
            spec = read_documents_as(config)
            self._splitters[source] = corpus_splitter(source, spec, config.passages, config.reading)
        return read_passages(source, splitter=self._splitters[source], settings=config.reading)

    def corpus(self, source: str, *, whole: bool = False) -> _Lengths:
        """Sample a corpus evenly from its first passages."""
        if (source, whole) not in self._corpora:
            total = None if is_remote(source) else sum(1 for _ in self.passages(source, whole=whole))
            head = min(total or _SAMPLED_FROM, _SAMPLED_FROM)
            every = max(1, head // _SAMPLE)
            sample = [one.full_text for one in islice(self.passages(source, whole=whole), 0, head, every)]
            counts = self.count(sample)
            known = counted(total, "passage") if total else f"unknown size, counted as {head:,} passages"
            mean = f"{fmean(counts):,.0f} tokens each (mean of {len(counts)} from the first {head:,})"
            self.notes.append(f"{source}: {known}, {mean}")
            size = fmean(len(text.encode("utf-8", "replace")) for text in sample)
            self._corpora[source, whole] = _Lengths(counts, total or head, size)
        return self._corpora[source, whole]

    def pairs(self) -> tuple[_Lengths, _Lengths]:
        """Return the lengths of the queries and of the passages of the training pairs."""
        if self._sampled is None:
            sample: list[TrainingExample] = []
            total = 0
            for name, source in pair_files(self.config).items():
                if name == GENERATED_PAIRS:
                    found, count = self._generated_pairs()
                elif source is None:
                    found, count = self._own_pairs()
                else:
                    rest = read_examples(source.source, split=source.split, limit=source.limit or _MOST_EXAMPLES)
                    found = list(islice(rest, _SAMPLE))
                    count = len(found) + sum(1 for _ in islice(rest, _MOST_EXAMPLES - len(found)))
                    capped = " (not counted further)" if count == _MOST_EXAMPLES else ""
                    self.notes.append(f"{source.source}: {counted(count, 'labeled query', 'labeled queries')}{capped}")
                total += count
                sample += found
            self._negatives = [len(example.negatives) for example in sample]
            queries, passages = zip(*((one.query, one.positives[0]) for one in sample), strict=True)
            self._sampled = _Lengths(self.count(queries), total), _Lengths(self.count(passages), total)
        return self._sampled

    def _own_pairs(self) -> tuple[list[TrainingExample], int]:
        settings, source = self.config.pairs, self.config.corpus
        assert settings
        assert settings.from_corpus
        head = list(islice(self.passages(source), 2 * _SAMPLE))
        found = list(pairs_from_corpus(head, settings.from_corpus, settings.seed))
        each, total = len(found) / len(head), self.corpus(source).total
        self.notes.append(f"{source}: {each:.1f} pairs per passage (from the first {len(head)})")
        count = round(each * min(settings.from_corpus.limit or total, total))
        return found[:: max(1, len(found) // _SAMPLE)], count

    def _generated_pairs(self) -> tuple[list[TrainingExample], int]:
        """Stand in for questions that are not written yet: as many first words of their passages."""
        passages = list(islice(self.passages(self.config.corpus), _SAMPLE))
        found = [
            TrainingExample(" ".join(one.text.split()[:_QUESTION_WORDS]) or "?", (one.full_text,)) for one in passages
        ]
        asked, each = self._asked()
        written = f"{counted(each, 'question')} for each of {counted(asked, 'passage')}"
        self.notes.append(f"{written}; half of them are assumed to pass the filters")
        return found, round(asked * each * _KEPT)

    def _asked(self) -> tuple[int, int]:
        """Return how many passages get questions, and how many each."""
        assert self.config.pairs
        assert self.config.pairs.generated
        settings, total = self.config.pairs.generated, self.corpus(self.config.corpus).total
        return min(settings.passages or total, total), settings.questions

    def _writing_seconds(self) -> float:
        """Estimate the time of writing questions: reading prompts, then one token after the other."""
        pairs = self.config.pairs
        if not pairs or not pairs.generated:
            return 0.0
        settings, (asked, each) = pairs.generated, self._asked()
        prompt = self.count([settings.prompt])[0]
        length = self.corpus(self.config.corpus).mean(settings.passage_max_tokens, prompt)
        # Every question of a passage reads its prompt, and a token at a time uses a fraction of the rate.
        tokens = asked * each * (length + _SLOWER_A_TOKEN * settings.question_max_tokens)
        shape = model_shape(writing_model(self.config))
        return tokens * 2 * shape.body / self.rates.reading(length)

    def of(self, stage: PlannedStage) -> StageEstimate:
        return cast(StageEstimate, getattr(self, f"_{stage.kind}")(stage))

    def _training(
        self,
        config: AdaptConfig | FinetuneConfig,
        steps: int,
        tokens: float,
        cells: float,
        reread: float,
        length: float,
    ) -> StageEstimate:
        """Estimate training: ``tokens`` are read per step in sequences of mean ``length``, a share ``reread`` twice.

        ``cells`` are the tokens and padding whose activations are held at once.
        """
        settings, processes = config.model, launched_processes()
        lora = settings.lora.rank > 0
        depth = settings.lora.depth if lora else 1.0
        # Backward: the gradients of the inputs cost another forward, those of the weights one more in full training.
        passes = 1 + reread + settings.gradient_checkpointing * depth + depth * (1 if lora else 2)
        memory = training_memory(
            self.shape, settings, config.optimizer, cells=cells, itemsize=self.dtype.itemsize, processes=processes
        )
        stage = "adapt" if isinstance(config, AdaptConfig) else "finetune"
        self.notes.append(f"{stage}: {memory}" + (f", of {processes}" if processes > 1 else ""))
        operations = steps * passes * forward_operations(self.shape, tokens, length)
        return StageEstimate(operations / self.rates.training(length, settings), memory.total + _PROCESS_BYTES)

    @property
    def _mlp(self) -> float:
        return self.shape.inner

    def _reading(self, texts: _Lengths, most: int) -> float:
        length = texts.mean(most, self.prompt)
        return texts.total * forward_operations(self.shape, length, length) / self.rates.reading(length)

    @property
    def _inference_bytes(self) -> float:
        cells = cells_per_batch(self.device.type, compiled=bool(self.config.model.compile))
        return (self.shape.parameters + cells * self._mlp) * self.dtype.itemsize + _PROCESS_BYTES

    @property
    def _encoder(self) -> EncoderSettings:
        section = self.config.finetune or self.config.adapt
        return section.encoder if section else self.config.encoder

    def _adapt(self, stage: PlannedStage) -> StageEstimate:
        config = self.config.adapt
        assert config
        texts = self.corpus(adaptation_corpus(self.config), whole=True)
        # The length in words is drawn evenly; the sample says how many tokens there are per byte, at six bytes a word.
        per_word = 6 * fmean(texts.tokens) / max(texts.bytes, 1.0)
        words = (config.text.min_words + config.text.max_words) / 2
        length = min(words * per_word, config.text.max_tokens) + 2 * self.prompt
        most = min(config.text.max_words * per_word, config.text.max_tokens) + 2 * self.prompt
        settings = config.optimizer
        cells = settings.batch_size * most
        limit = most_cells(config.objective.micro_batch_tokens, self.device.type)
        found = self._training(
            config, settings.steps, settings.batch_size * settings.accumulation * length,
            min(cells, max(limit, most)) if limit else cells, 0.0, length,
        )  # fmt: skip
        slots = settings.batch_size * 2 * max(self.config.prompts.slots, 1)
        logits = slots * self.shape.vocabulary * 4 * 4
        head = settings.steps * settings.accumulation * slots * 4 * self.shape.vocabulary * self.shape.width
        return StageEstimate(found.seconds + head / self.rates.reading(length), found.memory_bytes + logits)

    def _read(self, stage: PlannedStage) -> StageEstimate:
        texts = self.corpus(stage.input("corpus").where)
        return StageEstimate(_SECONDS_A_BYTE_READ * texts.total * texts.bytes, _PROCESS_BYTES)

    def _pairs(self, stage: PlannedStage) -> StageEstimate:
        queries, passages = self.pairs()
        writing = self._writing_seconds()
        seconds = _SECONDS_A_PAIR * (queries.total + passages.total) + writing
        return StageEstimate(seconds, self._inference_bytes if writing else _PROCESS_BYTES)

    def _mine(self, stage: PlannedStage) -> StageEstimate:
        queries, _ = self.pairs()
        corpora = [self.corpus(source) for source in {*mining_corpora(self.config).values()} - {""}]
        memory = 3 * sum(texts.total * texts.bytes for texts in corpora)
        if not stage.find_input("model"):
            return StageEstimate(0.0, memory + _PROCESS_BYTES)
        seconds = sum(self._reading(texts, self._encoder.passage_max_tokens) for texts in corpora)
        seconds += self._reading(queries, self._encoder.query_max_tokens)
        return StageEstimate(seconds, memory + self._inference_bytes)

    def _finetune(self, stage: PlannedStage) -> StageEstimate:
        config = self.config.finetune
        assert config
        queries, passages = self.pairs()
        encoder, data, settings = self._encoder, config.data, config.optimizer
        asked = queries.mean(min(encoder.query_max_tokens, data.query_max_tokens or 10**9), self.prompt)
        length = passages.mean(min(encoder.passage_max_tokens, data.passage_max_tokens or 10**9), self.prompt)
        # What mining will find is unknown yet; without mining, a query has the negatives of its source.
        there = [self.config.mine.negatives] if self.config.mine else self._negatives
        each = config.contrastive.positives + fmean(min(count, config.contrastive.negatives) for count in there)
        a_step = settings.batch_size * settings.accumulation
        trained = max(1.0, queries.total * (1 - (0 if config.validation.source else config.validation.share)))
        steps = settings.steps or max(1, round(settings.epochs * trained / a_step))
        cells = settings.batch_size * (asked + each * length)
        most = held_cells(
            config.contrastive.graph_tokens, self.device.type, self.shape, self.dtype.itemsize, launched_processes()
        )
        held = min(cells, max(most, length))
        reread = 1 - held / cells + (config.contrastive.false_negatives == "start")
        return self._training(config, steps, a_step * (asked + each * length), held, reread, length)

    def _encode(self, stage: PlannedStage) -> StageEstimate:
        texts = self.corpus(self.config.encoded_corpus)
        return StageEstimate(self._reading(texts, self._encoder.passage_max_tokens), self._inference_bytes)

    def _index(self, stage: PlannedStage) -> StageEstimate:
        assert self.config.index
        texts = self.corpus(self.config.encoded_corpus)
        held = 0 if self.config.index.kind == "exact" else texts.total * self.shape.width * 4
        return StageEstimate(1.0, held + _PROCESS_BYTES)

    def _evaluate(self, stage: PlannedStage) -> StageEstimate:
        assert self.config.evaluate
        # Hybrid combines what BM25 and a model found.
        models = len([name for name in systems(self.config) if name not in ("bm25", "hybrid")])
        seconds = 0.0
        for data in tasks_data(self.config.evaluate.tasks, self.config.evaluate.data_root):
            if data.retrieval:
                encoded = self._is_encoded(data.fingerprints["corpus_fingerprint"])
                reading = self._reading(self.corpus(data.retrieval.corpus_source), self._encoder.passage_max_tokens)
                seconds += reading * (models - encoded)
                asked, sides = [query.text for query in data.retrieval.queries], 1
            else:
                asked, sides = [pair.first for pair in data.pairs], 2
            lengths = _Lengths(self.count(asked[:_SAMPLE]), len(asked) * sides)
            seconds += models * self._reading(lengths, self._encoder.query_max_tokens)
        return StageEstimate(seconds, self._inference_bytes)

    def _is_encoded(self, fingerprint: str) -> bool:
        """Tell whether the run's own store serves the last model on this task."""
        encode = self.config.encode
        if encode is None or encode.vector_format != "float32" or not (self.config.adapt or self.config.finetune):
            return False
        return fingerprint == corpus_fingerprint(self.config.encoded_corpus)


def estimate_run(plan: RunPlan, stages: Sequence[PlannedStage], flops: float | None = None) -> RunEstimate:
    """Estimate stages of a run; ``flops`` = FLOP/s of matrix products on its machine, None = measured here."""
    estimator = _Estimator(plan, flops)
    found = {stage.name: estimator.of(stage) for stage in stages}
    shape, on = estimator.shape, f"{str(estimator.dtype).removeprefix('torch.')} on {estimator.device.type}"
    notes = [
        f"{plan.config.model.name}: {shape.parameters / 1e6:,.1f} million parameters, {shape.body / 1e6:,.1f} million "
        "in the layers (from its config; no weights loaded)",
        f"{estimator.rates.described} ({on}); one process, padding not counted",
        *estimator.notes,
        "not counted: BM25, a teacher's scores, reading and writing files, validation during training",
        "expect them to be right within a factor of 2",
    ]
    return RunEstimate(found, notes)
