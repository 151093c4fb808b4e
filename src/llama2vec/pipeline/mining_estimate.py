"""What ``mine`` would read, take and write: its inputs are read as mining reads them, and nothing is written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from llama2vec.config import ModelSettings, PromptSettings
from llama2vec.data.examples.reported import report_path
from llama2vec.kept import KEPT_SCORES, KEPT_STORE
from llama2vec.mine.inputs import MiningInputs, read_inputs, with_corpus
from llama2vec.mine.settings import MineSettings
from llama2vec.model.device import choose_device, choose_dtype
from llama2vec.model.source import ModelSpec
from llama2vec.model.tokens import text_limits
from llama2vec.pipeline.estimates import (
    PROCESS_BYTES,
    START_SECONDS,
    StageEstimate,
    inference_bytes,
    reading_seconds,
    teacher_bytes,
)
from llama2vec.pipeline.rates import Rates
from llama2vec.pipeline.samples import SAMPLE, Lengths
from llama2vec.records import Side
from llama2vec.terminal import counted


class MiningEstimate(NamedTuple):
    """Time and memory, and what was counted and assumed, in sentences."""

    stage: StageEstimate
    notes: list[str]


def estimate_mining(
    inputs: MiningInputs,
    output: Path,
    settings: MineSettings,
    model: ModelSpec | None = None,
    loading: ModelSettings | None = None,
) -> MiningEstimate:
    """Estimate a mining before it starts.

    Args:
        inputs: What it reads.
        output: The file that it would write.
        settings: How it mines.
        model: The encoder that ``inputs`` would load; None = BM25 alone.
        loading: Where and in which number format the encoder runs.

    Raises:
        Llama2VecError: An input that mining would refuse, too.
    """
    inputs = with_corpus(inputs)
    examples, passages = read_inputs(inputs, output, settings)
    store = inputs.index.store if inputs.index else None
    queries, texts = _sampled([one.query for one in examples]), _sampled([one.full_text for one in passages])
    positives = sum(len(one.positives) for one in examples)
    negatives = sum(len(one.negatives) for one in examples)
    asked = counted(len(examples), "query", "queries")
    has = f"{counted(positives, 'positive')} and {counted(negatives, 'negative')}"
    where = inputs.corpus or (str(store.path) if store else f"the texts of {inputs.examples}")
    notes = [f"{inputs.examples}: {asked} with {has}", f"{where}: {counted(len(passages), 'passage')} to search"]
    seconds, memory, kept = 0.0, PROCESS_BYTES, list[str]()
    if model is not None:
        reading = _Reading(model, loading or ModelSettings())
        seconds = START_SECONDS + reading.seconds(queries, "query")
        memory = reading.memory
        if store is None:
            seconds += reading.seconds(texts, "passage")
            size = len(passages) * reading.rates.shape.width * 4 / 2**20
            kept.append(f"{output}{KEPT_STORE}… (vectors, ~ {max(1, size):,.0f} MiB)")
        notes += reading.notes(encodes=store is None)
    memory += 3 * texts.total * texts.bytes
    if settings.teacher:
        size, note = teacher_bytes(settings.teacher)
        memory += size
        pairs = positives + len(examples) * settings.negatives
        notes += [note, f"the teacher scores at least {counted(pairs, 'pair')}"]
        kept.append(f"{output}{KEPT_SCORES}…")
    notes.append(f"writes {output} and {report_path(output)}" + (f"; until then {' and '.join(kept)}" if kept else ""))
    notes.append("not counted: BM25, a teacher's scores, reading and writing files")
    return MiningEstimate(StageEstimate(seconds, memory), notes)


class _Reading:
    """How long an encoder reads."""

    def __init__(self, model: ModelSpec, loading: ModelSettings) -> None:
        self._name, prompts = model.path or model.name, model.prompts or PromptSettings()
        self._tokenizer, self._limits = text_limits(model)
        self._device = choose_device(loading.device)
        self._dtype = choose_dtype(loading.dtype, self._device)
        settings = loading.model_copy(update={"name": self._name, "layers": model.layers})
        self.rates = Rates(settings, self._dtype, self._device)
        both = [prompts.prefix + prompts.self_prompt, prompts.prefix + prompts.next_prompt]
        self._prompt = max(self._count(both)) + max(prompts.slots, 1)

    def _count(self, texts: Iterable[str]) -> list[int]:
        return [len(ids) for ids in self._tokenizer([*texts], add_special_tokens=False)["input_ids"]]

    def seconds(self, texts: _Texts, side: Side) -> float:
        """Return the time of reading all texts, from the lengths of some."""
        lengths = Lengths(self._count(texts.sample), texts.total)
        return reading_seconds(lengths, self._limits[side], self._prompt, self.rates)

    @property
    def memory(self) -> float:
        """Bytes at the peak, texts apart."""
        return inference_bytes(self.rates.shape, self._device, self._dtype, compiled=False)

    def notes(self, *, encodes: bool) -> list[str]:
        """Return what the estimate rests on."""
        parameters = f"{self.rates.shape.parameters / 1e6:,.1f} million parameters"
        reads = "queries and passages" if encodes else "queries; the passages are encoded already"
        on = f"{str(self._dtype).removeprefix('torch.')} on {self._device.type}"
        within = 1.5 if self.rates.are_measured else 2
        return [
            f"{self._name}: {parameters}, reads {reads}", f"{self.rates.described} ({on})",
            f"expect the time to be right within a factor of {within}, if nothing else runs",
        ]  # fmt: skip


class _Texts(NamedTuple):
    """Some of so many texts, and the mean size of these in bytes."""

    sample: Sequence[str]
    total: int
    bytes: float


def _sampled(texts: Sequence[str]) -> _Texts:
    sample = texts[:: max(1, len(texts) // SAMPLE)]
    return _Texts(sample, len(texts), fmean(len(text.encode("utf-8", "replace")) for text in sample))
