"""What goes wrong when another program reads a model: each known fault and the vectors that it gives.

A cause is named only because planting it gives the backend's vectors. A fault that a model cannot show (no BOS to
forget, relative positions that padding does not shift) gives the golden vectors and is never named.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from llama2vec.config import PromptName
from llama2vec.model.contract import prefix_words
from llama2vec.records import Side, Vectors
from llama2vec.verify.plain import Case, Reading, input_as_text, slot_words

_USUAL_LIMITS = (16, 24, 32, 48, 64, 96, 100, 128, 160, 192, 256, 384, 500, 510, 512, 1000, 1024)
_TEXT_CHANGES: dict[str, Callable[[str], str]] = {
    "white space around the text is stripped": str.strip,
    "line breaks become spaces": lambda text: text.replace("\n", " "),
    "runs of white space become one space": lambda text: " ".join(text.split()),
    "the text is lowercased": str.lower,
    "Unicode normalization (NFKC) changes letters": lambda text: unicodedata.normalize("NFKC", text),
    "non-ASCII letters are dropped": lambda text: text.encode("ascii", "ignore").decode(),
}

Candidate = tuple[str, Vectors | None]  # What is wrong, and [N, D]; None = cannot happen here
Candidates = Callable[[Case], Iterator[Candidate]]


@dataclass(frozen=True, slots=True)
class Fault:
    """A known fault, what to do, and each way it shows: what is wrong, and the vectors under it."""

    name: str
    remedy: str
    candidates: Candidates


FAULTS: list[Fault] = []
"""Every fault that is tried, in the order in which equal ones are named."""

_PADDING_REMEDY = "pad on the right and pool at each row's own last tokens (the contract's padding_side)"


def _fault(name: str, remedy: str) -> Callable[[Candidates], Candidates]:
    """Register the ways in which a fault shows."""

    def register(candidates: Candidates) -> Candidates:
        FAULTS.append(Fault(name, remedy, candidates))
        return candidates

    return register


@_fault("no EOS", "append the contract's suffix ids, the slot included")
def _no_slot(case: Case) -> Iterator[Candidate]:
    """Attention is causal, so the state before the slots is that of a sequence without them."""
    if not case.plain.pools_slots:
        return
    slots = case.plain.slots
    what = "the prompt does not end in its EOS token" if case.slot_is_eos else f"the {slots} slot tokens are missing"
    if case.plain.suffix(case.prompt)[:-slots]:
        last = f"{what}: the last word of the prompt is pooled instead"
        yield last, case.pool(lambda one: [len(one.ids) - slots - 1])
        if slots > 1:
            yield last, case.pool(lambda one: range(len(one.ids) - 2 * slots, len(one.ids) - slots))
    text_end = f"{what} and the prompt is missing too: the last token of the text is pooled"
    yield text_end, case.pool(lambda one: [one.text.stop - 1])
    yield f"{text_end}, and no text is cut", case.pool(lambda one: [len(one.ids) - 1], readings=case.bare_readings())
    if slots > 1:
        yield text_end, case.pool(lambda one: range(one.text.stop - slots, one.text.stop))


@_fault("one slot", "average the last hidden states of all slots")
def _one_slot(case: Case) -> Iterator[Candidate]:
    slots = case.plain.slots
    if case.plain.pools_slots and slots > 1:
        yield f"only the last of the {slots} slots is pooled", case.pool(lambda one: [len(one.ids) - 1])
        yield f"only the first of the {slots} slots is pooled", case.pool(lambda one: [len(one.ids) - slots])


@_fault("mean pooling", "pool the slots, the last tokens of the sequence")
def _mean_pooling(case: Case) -> Iterator[Candidate]:
    if not case.plain.pools_slots:
        return
    yield "all tokens are averaged instead of the slots", case.pool(lambda one: range(len(one.ids)))
    yield "the text's tokens are averaged instead of the slots", case.pool(lambda one: one.text)
    yield "the text's tokens are averaged, without any prompt", case.pool(lambda one: range(one.text.stop))
    bare = "the bare text's tokens are averaged, without any prompt, and no text is cut"
    yield bare, case.pool(lambda one: range(len(one.ids)), readings=case.bare_readings())
    # Some libraries exclude BOS from the mean.
    yield "all tokens but the first are averaged instead of the slots", case.pool(lambda one: range(1, len(one.ids)))


@_fault("other pooling", "average the text's own tokens")
def _token_instead_of_mean(case: Case) -> Iterator[Candidate]:
    if not case.plain.pools_slots:
        yield "the last token is pooled instead of the mean over the text", case.pool(lambda one: [len(one.ids) - 1])
        yield "the tokens before the text are averaged with it", case.pool(lambda one: range(len(one.ids)))


@_fault("other layers", "average as many last layers as the contract says, each at unit length")
def _other_layers(case: Case) -> Iterator[Candidate]:
    own = case.plain.layers
    depth = len(case.plain.states(case.readings()[0].ids)) - 1
    columns = case.plain.columns
    for count in range(1, depth + 1):
        if count != own:
            what = "only the last layer is read" if count == 1 else f"the last {count} layers are averaged"
            yield f"{what}, where the contract has {own}", case.pool(columns, range(-count, 0))
    for below in range(1, min(depth, 4) + 1):
        instead = "the last one" if own == 1 else f"the mean of the last {own}"
        yield f"the layer {below} below the last is read instead of {instead}", case.pool(columns, [-1 - below])


@_fault("wrong prompt", "send queries as queries and passages as passages (input_type, prompt_name)")
def _wrong_prompt(case: Case) -> Iterator[Candidate]:
    plain, side = case.plain, case.side
    if not plain.pools_slots:
        return
    other: Side = "passage" if side == "query" else "query"
    wrong: PromptName = "next" if case.prompt == "self" else "self"
    whose = f", the {other}'s" if plain.prompt(other) == wrong else ""
    what = f"read with the {wrong.upper()} prompt{whose}, instead of {case.prompt.upper()}"
    # A program that mistakes one side for the other applies that side's limit, too.
    for limit in dict.fromkeys((plain.limit(side), plain.limit(other))):
        yield what, case.read_with(suffix=plain.suffix(wrong), limit=limit)


@_fault("no prompt", "append the contract's suffix ids to every text")
def _no_prompt(case: Case) -> Iterator[Candidate]:
    if case.plain.pools_slots:
        what = "the slots follow the text directly, without the prompt's words"
        yield what, case.read_with(suffix=case.slot_ids)
        if case.prefix_words:
            yield what, case.read_with(prefix=case.begin, suffix=case.slot_ids)


@_fault("prompt twice", "send bare texts and name the side (--input-type-field)")
def _prompt_twice(case: Case) -> Iterator[Candidate]:
    """The caller writes the prompt into the text, and the server adds it once more."""
    plain = case.plain
    if plain.pools_slots or case.prefix_words:
        prompted = partial(input_as_text, plain.contract, plain.tokenizer, case.side)
        yield "the text already contains the prompt when it arrives, and gets it again", case.read_with(change=prompted)


@_fault("missing BOS", "begin with the contract's prefix ids (add_special_tokens)")
def _missing_bos(case: Case) -> Iterator[Candidate]:
    if case.begin:
        yield "BOS is missing", case.read_with(prefix=case.prefix_words)


@_fault("extra BOS", "begin with BOS only once: from the tokenizer or from the prompt")
def _extra_bos(case: Case) -> Iterator[Candidate]:
    plain = case.plain
    if case.begin:
        yield "the sequence begins with BOS twice", case.read_with(prefix=(*case.begin, *case.prefix))
        return
    for token in (plain.tokenizer.bos_token_id, plain.tokenizer.eos_token_id):
        if token is not None:
            what = "the sequence begins with BOS, and the contract has none"
            yield what, case.read_with(prefix=(token, *case.prefix))


@_fault("missing prefix", "begin with the contract's prefix ids")
def _missing_prefix(case: Case) -> Iterator[Candidate]:
    if case.prefix_words:
        words = prefix_words(case.plain.contract, case.side)
        yield f"the prompt's {words!r} before the text is missing", case.read_with(prefix=case.begin)


@_fault("extra EOS", "switch off the tokenizer's or the server's own EOS")
def _extra_eos(case: Case) -> Iterator[Candidate]:
    eos = case.plain.tokenizer.eos_token_id
    if case.plain.pools_slots and eos is not None:
        yield "one more EOS follows the slots", case.read_with(suffix=(*case.plain.suffix(case.prompt), eos))


@_fault("joined tokens", "tokenize the text alone, then append the contract's suffix ids")
def _joined(case: Case) -> Iterator[Candidate]:
    """Tokens may merge where the text meets the prompt."""
    plain = case.plain
    if not plain.pools_slots:
        return
    prompts = plain.contract["prompts"]
    before, slots = prefix_words(plain.contract, case.side), slot_words(plain.contract, plain.tokenizer, case.prompt)
    readings = []
    for text in case.texts:
        ids = plain.text_ids(f"{before}{text}{prompts[f'{case.prompt}_prompt']}{slots}")
        fits = len(plain.text_ids(text)) <= plain.limit(case.side)
        readings.append(Reading((*case.begin, *ids), range(0)) if fits else plain.reading(text, case.side))
    yield "text and prompt are tokenized as one string, so tokens merge at the seam", case.read(readings)


@_fault("altered text", "pass the text to the tokenizer unchanged")
def _altered_text(case: Case) -> Iterator[Candidate]:
    for what, change in _TEXT_CHANGES.items():
        yield what, case.read_with(change=change)


@_fault("truncation", "cut the text, not the prompt, at the contract's limits")
def _truncation(case: Case) -> Iterator[Candidate]:
    """Try the usual lengths."""
    plain, side = case.plain, case.side
    own, other = plain.limit(side), plain.limit("passage" if side == "query" else "query")
    around = len(case.prefix) + len(plain.suffix(case.prompt))
    longest = max(len(plain.text_ids(text)) for text in case.texts)
    for limit in sorted({*_USUAL_LIMITS, other, longest} - {own}):
        whose = ", the other side's limit," if limit == other else ""
        what = f"texts are cut at {limit} tokens{whose} instead of {own}"
        if limit >= longest:
            what = f"texts are not cut, where the contract's limit is {own} tokens"
        yield what, case.read_with(limit=limit)
        if limit > around:
            within = f"text and prompt together are cut at {limit} tokens, where the contract cuts the text at {own}"
            yield within, case.read_with(limit=min(own, limit - around))
        if plain.pools_slots:
            cut = f"text and prompt together are cut at {limit} tokens, which cuts off the end of the prompt"
            yield cut, case.read([Reading(one.ids[:limit], range(0)) for one in case.readings()])


@_fault("left padding", _PADDING_REMEDY)
def _left_padding(case: Case) -> Iterator[Candidate]:
    width = max(len(one.ids) for one in case.readings())
    columns = case.plain.columns

    def shifted(one: Reading, start: int) -> list[int]:
        return [start + column for column in columns(one)]

    unmasked = "a batch is padded on the left without an attention mask, so the model reads the padding"
    for pad_id in case.plain.pad_ids:
        yield unmasked, case.pool_batch(shifted, left=True, mask=False, pad_id=pad_id)
    counted = "a batch is padded on the left, and positions count the padding"
    yield counted, case.pool_batch(shifted, left=True, mask=True)
    misplaced = f"a batch of up to {width} tokens is padded on the left, and pooled as if padded on the right"
    for mask in (True, False):
        yield misplaced, case.pool_batch(lambda one, _: columns(one), left=True, mask=mask)


@_fault("pooling at a pad token", _PADDING_REMEDY)
def _pad_pooled(case: Case) -> Iterator[Candidate]:
    """Padding on the right, and the last columns of the batch instead of the row's."""
    width = max(len(one.ids) for one in case.readings())
    count = case.plain.slots if case.plain.pools_slots else width
    what = "the padding is averaged with the text"
    if case.plain.pools_slots:
        what = "a batch is padded on the right and its last column is pooled, which is padding for shorter texts"
    for mask in (True, False):
        for pad_id in case.plain.pad_ids:
            last = range(width - count, width)
            yield what, case.pool_batch(lambda *_, last=last: last, left=False, mask=mask, pad_id=pad_id)  # type: ignore[misc]


def fault_name(fault: Fault, case: Case) -> str:
    """Return a fault's name for a model: a missing slot is a missing EOS only where EOS is the slot."""
    return "no slots" if fault.name == "no EOS" and not case.slot_is_eos else fault.name
