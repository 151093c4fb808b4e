"""What mining reads: examples, and the passages among which it looks for negatives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llama2vec.data.corpus.passages import read_passages
from llama2vec.data.corpus.sources import beir_file
from llama2vec.data.documents.folder import ReadingReport
from llama2vec.data.documents.splitting import Splitter
from llama2vec.data.examples.labeled import read_examples
from llama2vec.data.examples.reported import check_reported
from llama2vec.data.settings import ReadingSettings
from llama2vec.errors import ConfigError, StoreError
from llama2vec.integrations.pair_scorer import PairScorer
from llama2vec.mine.candidates import MiningEncoder, passages_of_examples
from llama2vec.mine.settings import MineSettings
from llama2vec.records import Passage, TrainingExample
from llama2vec.retrieve.index.exact import Index
from llama2vec.retrieve.store.reader import store_passages
from llama2vec.terminal import counted


@dataclass(frozen=True)
class MiningInputs:
    """What :func:`llama2vec.mine.mining.mine_to_file` reads.

    The two functions are called after everything else has been found: a model is worth loading only then.
    """

    examples: str
    split: str = "train"
    corpus: str = ""  # "" = passages of the index, else of the examples' BEIR folder, else of the examples
    model: str = ""  # the encoder's name, for the report
    encoder: Callable[[], MiningEncoder] | None = None  # loads the model; None = BM25 alone
    index: Index | None = None  # the corpus as this encoder sees it; None = encode it next to the output, resumably
    splitter: Callable[[], Splitter | None] = lambda: None  # gives what splits documents; None = the corpus as it is
    reading: ReadingSettings = dataclasses.field(default_factory=ReadingSettings)  # how the corpus is read
    teacher: PairScorer | None = None  # ``mine.teacher``, found on this machine or the hub
    report: ReadingReport | None = None  # takes what of the documents was read, as in ``read_passages``
    # The output beside which vectors are kept for several ones, until ``discard_stores``; None = each for itself
    store_beside: Path | None = None


def read_inputs(
    inputs: MiningInputs, output: str | Path, settings: MineSettings
) -> tuple[list[TrainingExample], list[Passage]]:
    """Return the examples and passages that ``mine_to_file`` would read; it loads no model and writes nothing.

    Raises:
        ConfigError, DataError, StoreError: As there, as far as they show without a model.
    """
    inputs = with_corpus(inputs)
    check_sources(inputs, Path(output), settings)
    splitter = inputs.splitter()
    examples = list(read_examples(inputs.examples, split=inputs.split, reading=inputs.reading))
    passages = mined_passages(inputs, splitter, examples)
    check_window(settings, passages)
    return examples, passages


def with_corpus(inputs: MiningInputs) -> MiningInputs:
    """Let the examples of a BEIR folder be mined from its corpus, unless another is named."""
    is_named = inputs.corpus or inputs.index is not None or not beir_file(inputs.examples, "corpus")
    return inputs if is_named else dataclasses.replace(inputs, corpus=inputs.examples)


def check_sources(inputs: MiningInputs, output: Path, settings: MineSettings) -> None:
    """Refuse, before anything is read, what cannot be mined."""
    if bool(settings.teacher) != (inputs.teacher is not None):
        raise ConfigError("mine.teacher and the teacher in the inputs belong together")
    if not settings.bm25 and inputs.encoder is None:
        raise ConfigError("nothing to mine with; set mine.bm25=true, give a model (--model), or both")
    if inputs.index and inputs.encoder is None:
        raise ConfigError(f"{inputs.index.store.path} needs the model that encoded it; give --model")
    check_reported(output, "mine")


def check_window(settings: MineSettings, passages: Sequence[Passage]) -> None:
    """Raise a ConfigError if the window of ranks begins after the last passage."""
    if settings.first_rank > len(passages):
        raise ConfigError(
            f"the window begins at rank {settings.first_rank} and the corpus has {counted(len(passages), 'passage')}; "
            "lower mine.first_rank or give a larger corpus"
        )


def mined_passages(
    inputs: MiningInputs, splitter: Splitter | None, examples: Sequence[TrainingExample]
) -> list[Passage]:
    """Return the passages to mine from, in the order of the index if there is one."""
    store = inputs.index.store if inputs.index else None
    if not inputs.corpus:
        return list(store_passages(store)) if store else passages_of_examples(examples)
    found = read_passages(inputs.corpus, splitter=splitter, settings=inputs.reading, report=inputs.report)
    passages = list(found)
    if store is None:
        return passages
    pairs = zip(passages, store_passages(store), strict=False)
    if len(passages) != len(store) or any(ours != theirs for ours, theirs in pairs):
        raise StoreError(
            f"{store.path} holds other passages than {inputs.corpus}, or in another order; "
            "encode this corpus, or leave --corpus out"
        )
    return passages
