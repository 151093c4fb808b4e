"""The pairs of texts that adaptation learns from: read, in memory or on the disk, and what they cannot teach."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from llama2vec.adapt.settings import AdaptConfig, ObjectiveSettings
from llama2vec.data.corpus.passages import read_flat
from llama2vec.data.examples.spool import SPOOL_FILE, Spool, SpooledRow, write_spool
from llama2vec.data.examples.unlabeled import adaptation_examples, adaptation_pairs, no_text
from llama2vec.data.text.words import count_words
from llama2vec.errors import EmptyTargetsError
from llama2vec.model.lengths import warn_of_cut
from llama2vec.model.prompt import Tokenizer, count_longer
from llama2vec.processes import on_first_process, process_rank
from llama2vec.records import AdaptationExample, Passage
from llama2vec.terminal import counted
from llama2vec.training.output import StageWork

logger = logging.getLogger(__name__)

MOST_HELD_OUT = 128
_MOST_ROWS = 4096
_FEW = 0.1  # Share of pairs with a U below which NEXT learns little


class Pairs(NamedTuple):
    """What the text gives to learn from."""

    training: Sequence[AdaptationExample]  # In memory or on the disk
    held_out: Sequence[AdaptationExample]
    out: int  # How many are held out, kept or not
    followed: int  # Training pairs whose U is not empty


def read_pairs(config: AdaptConfig, work: StageWork, passages: Iterable[Passage]) -> Pairs:
    """Read the text of a recipe into pairs.

    Raises:
        EmptyCorpusError: No text at all.
    """
    need_next, seed = config.objective.next_weight > 0, config.optimizer.seed
    if not config.text.streaming:
        kept, out = adaptation_examples(passages, config.text, seed, need_next=need_next)
        return Pairs(kept, out, len(out), sum(bool(example.next_text) for example in kept))
    path, held_out, counts = work.begin() / SPOOL_FILE, list[AdaptationExample](), Counter[str]()

    def rows() -> Iterator[SpooledRow]:
        for example, is_held_out in adaptation_pairs(passages, config.text, seed, need_next, most_rows=_MOST_ROWS):
            if is_held_out:
                held_out.extend([example] if counts["out"] < MOST_HELD_OUT else [])
                counts["out"] += 1
            else:
                counts["followed"] += bool(example.next_text)
                yield SpooledRow((example.text, example.next_text), size=count_words(example.text))

    def write() -> tuple[list[AdaptationExample], int, int]:
        with read_flat():
            write_spool(path, rows())
        return held_out, counts["out"], counts["followed"]

    found = on_first_process(write)
    examples = Spool(path, lambda texts, _: AdaptationExample(*texts))
    if not examples:
        raise no_text(config.text)
    return Pairs(examples, *found)


def check_followed(pairs: Pairs, objective: ObjectiveSettings) -> None:
    """Warn where NEXT has few texts to predict; raise an EmptyTargetsError where it has none and is all there is."""
    total = len(pairs.training)
    if not objective.next_weight or pairs.followed >= _FEW * total:
        return
    which = f"only {pairs.followed:,} of {counted(total, 'training text')}" if pairs.followed else "no training text"
    cause = f"{which} has another one of its document behind it to predict"
    remedy = "give long documents, or their passages in order with ids such as doc-1, doc-2"
    if not pairs.followed and not objective.self_weight:
        raise EmptyTargetsError(f"{cause}, and objective.self_weight is 0: nothing to learn; {remedy}")
    trained = "hardly trained" if pairs.followed else "not trained"
    logger.warning("%s: the NEXT prompt is %s; %s, or fine-tune with encoder.query_prompt=self", cause, trained, remedy)


def warn_of_cut_texts(
    examples: Sequence[AdaptationExample], config: AdaptConfig, tokenizer: Tokenizer, room: int
) -> None:
    """Say how many texts of these pairs are read, or predicted, only to a part."""
    if process_rank():
        return
    texts = dict.fromkeys(example.text for example in examples)
    if config.objective.targets == "in_text":
        texts |= dict.fromkeys(example.next_text for example in examples if example.next_text)
    how = "lower text.max_words" if room < config.text.max_tokens else "raise text.max_tokens or lower text.max_words"
    rest = f"after {counted(room, 'token')} is neither read nor predicted; {how}"
    warn_of_cut("", count_longer(tokenizer, list(texts), room), len(texts), rest, ("text", "texts"))
