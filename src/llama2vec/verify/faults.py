"""What goes wrong when a model is read elsewhere: each known fault with the vectors that it gives.

A cause is named only because planting it gives the vectors that the backend gave. A fault that a model cannot show
(no BOS to forget, relative positions that padding does not shift) gives the golden vectors, and is never named.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from llama2vec.config import PromptName
from llama2vec.model.golden import Side
from llama2vec.model.pooling import Vectors
from llama2vec.verify.plain import PlainModel, Reading, input_as_text, other_side

_USUAL_LIMITS = (16, 24, 32, 48, 64, 96, 100, 128, 160, 192, 256, 384, 500, 510, 512, 1000, 1024)
NEAR_COSINE = 0.99
"""What is farther from a given vector than this is another vector in any number format."""
_CHAT_TEMPLATES: dict[str, tuple[str, str]] = {
    "ChatML": ("<|im_start|>user\n{}<|im_end|>\n", "<|im_start|>assistant\n"),
    "Llama 2": ("[INST] {} [/INST]", ""),
    "Llama 3": (
        "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "Gemma": ("<start_of_turn>user\n{}<end_of_turn>\n", "<start_of_turn>model\n"),
    "Zephyr": ("<|user|>\n{}</s>\n", "<|assistant|>\n"),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One side of a model, and what a backend gave for it.

    Attributes:
        plain: The model.
        side: Query or passage.
        texts: N golden texts.
        golden: [N, D] golden vectors.
        given: [N, D] the backend's, at unit length.
    """

    plain: PlainModel
    side: Side
    texts: tuple[str, ...]
    golden: Vectors
    given: Vectors

    @property
    def prompt(self) -> PromptName:
        """The prompt that the side should have."""
        return self.plain.prompt(self.side)

    def readings(self) -> list[Reading]:
        """Return the texts as they should be read."""
        return [self.plain.reading(text, self.side) for text in self.texts]

    def read(self, readings: Sequence[Reading]) -> Vectors | None:
        """Embed other readings of the texts, pooled as the contract says; None where they do not fit or match."""
        plain = self.plain
        if list(readings) == self.readings():
            return self.golden
        least = plain.slots if plain.pools_slots else 1
        if any(not least <= len(one.ids) <= plain.context for one in readings):
            return None
        return self.pool(plain.columns, readings=readings)

    def read_with(
        self,
        *,
        change: Callable[[str], str] = str,
        prefix: Sequence[int] | None = None,
        suffix: Sequence[int] | None = None,
        limit: int | None = None,
    ) -> Vectors | None:
        """Embed the texts, changed or with other ids around them; see :meth:`read` and ``PlainModel.reading``."""
        plain, side = self.plain, self.side
        around = [plain.reading(change(text), side, prefix=prefix, suffix=suffix, limit=limit) for text in self.texts]
        return self.read(around)

    def bare_readings(self) -> list[Reading]:
        """Return the texts as a library reads them that knows neither prompts nor limits but the context."""
        begin = _begin(self.plain)
        limit = self.plain.context - len(begin)
        return [self.plain.reading(text, self.side, prefix=begin, suffix=(), limit=limit) for text in self.texts]

    def pool(
        self,
        columns: Callable[[Reading], Sequence[int]],
        layers: Sequence[int] | None = None,
        readings: Sequence[Reading] = (),
    ) -> Vectors | None:
        """Read each text as it should be, or as ``readings`` say, and pool other columns or other layers.

        Returns:
            [N, D]; None where a text has no such column, or as soon as one is unlike what the backend gave: each text
            costs a pass through the model.
        """
        plain, readings = self.plain, readings or self.readings()
        vectors = np.empty_like(self.golden)
        for row in sorted(range(len(readings)), key=lambda row: len(readings[row].ids)):
            chosen = list(columns(readings[row]))
            if not chosen or min(chosen) < 0:
                return None
            states = plain.states(readings[row].ids)
            pooled = plain.pooled(states, chosen, layers)
            vectors[row] = plain.finished(pooled)
            if not float(vectors[row] @ self.given[row]) > NEAR_COSINE:
                return None
        return vectors


Candidate = tuple[str, Vectors | None]


@dataclass(frozen=True, slots=True)
class Fault:
    """A known fault.

    Attributes:
        name: A few words.
        remedy: What to do.
        candidates: Each way it shows: what is wrong, and the vectors [N, D] under it (None = cannot happen here).
    """

    name: str
    remedy: str
    candidates: Callable[[Case], Iterator[Candidate]]


def _no_slot(case: Case) -> Iterator[Candidate]:
    """By causality the state in front of the slots is that of a sequence without them."""
    if not case.plain.pools_slots:
        return
    slots = case.plain.slots
    what = "the prompt does not end in its EOS token" if _slot_is_eos(case) else f"the {slots} slot tokens are missing"
    if case.plain.suffix(case.prompt)[:-slots]:
        last = f"{what}: the last word of the prompt is pooled instead"
        yield last, case.pool(lambda one: [len(one.ids) - slots - 1])
        if slots > 1:
            yield last, case.pool(lambda one: range(len(one.ids) - 2 * slots, len(one.ids) - slots))
    text_end = f"{what}, nor is there any prompt: the last token of the text is pooled"
    yield text_end, case.pool(lambda one: [one.text.stop - 1])
    yield f"{text_end}, and no text is cut", case.pool(lambda one: [len(one.ids) - 1], readings=case.bare_readings())
    if slots > 1:
        yield text_end, case.pool(lambda one: range(one.text.stop - slots, one.text.stop))


def _slot_is_eos(case: Case) -> bool:
    return not case.plain.contract["prompts"]["slots"]


def _one_slot(case: Case) -> Iterator[Candidate]:
    slots = case.plain.slots
    if case.plain.pools_slots and slots > 1:
        yield f"only the last of the {slots} slots is pooled", case.pool(lambda one: [len(one.ids) - 1])
        yield f"only the first of the {slots} slots is pooled", case.pool(lambda one: [len(one.ids) - slots])


def _mean_pooling(case: Case) -> Iterator[Candidate]:
    if not case.plain.pools_slots:
        return
    yield "all tokens are averaged instead of the slots", case.pool(lambda one: range(len(one.ids)))
    yield "the text's tokens are averaged instead of the slots", case.pool(lambda one: one.text)
    yield "the text's tokens are averaged, without any prompt", case.pool(lambda one: range(one.text.stop))
    bare = "the bare text's tokens are averaged: no prompt, and no text is cut"
    yield bare, case.pool(lambda one: range(len(one.ids)), readings=case.bare_readings())
    # Some libraries leave BOS out of the mean.
    yield "all tokens but the first are averaged instead of the slots", case.pool(lambda one: range(1, len(one.ids)))


def _token_instead_of_mean(case: Case) -> Iterator[Candidate]:
    if not case.plain.pools_slots:
        yield "the last token is pooled instead of the mean over the text", case.pool(lambda one: [len(one.ids) - 1])
        yield "what stands in front of the text is averaged with it", case.pool(lambda one: range(len(one.ids)))


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


def _wrong_prompt(case: Case) -> Iterator[Candidate]:
    plain, side = case.plain, case.side
    if not plain.pools_slots:
        return
    other = other_side(side)
    wrong: PromptName = "next" if case.prompt == "self" else "self"
    whose = f", the {other}'s" if plain.prompt(other) == wrong else ""
    what = f"read with the {wrong.upper()} prompt{whose}, instead of {case.prompt.upper()}"
    # What mistakes one side for the other takes its limit along, too.
    for limit in dict.fromkeys((plain.limit(side), plain.limit(other))):
        yield what, case.read_with(suffix=plain.suffix(wrong), limit=limit)


def _no_prompt(case: Case) -> Iterator[Candidate]:
    plain = case.plain
    if plain.pools_slots:
        slots = plain.suffix(case.prompt)[-plain.slots :]
        what = "the slots follow the text at once, without the prompt's words"
        yield what, case.read_with(suffix=slots)
        if _text_prefix(plain):
            yield what, case.read_with(prefix=_begin(plain), suffix=slots)


def _prompt_twice(case: Case) -> Iterator[Candidate]:
    """The caller writes the prompt into the text, and the server adds it once more."""
    plain = case.plain
    if plain.pools_slots or _text_prefix(plain):
        prompted = partial(input_as_text, plain.contract, plain.tokenizer, case.side)
        yield "the text that arrives has the prompt in it, and gets it once more", case.read_with(change=prompted)


def _begin(plain: PlainModel) -> tuple[int, ...]:
    """Return what stands in front of the prefix' own words: BOS, where the contract has one."""
    words = _text_prefix(plain)
    return plain.prefix[: len(plain.prefix) - len(words)] if words else plain.prefix


def _text_prefix(plain: PlainModel) -> tuple[int, ...]:
    words: str = plain.contract["prompts"]["prefix"]
    return plain.text_ids(words) if words else ()


def _missing_bos(case: Case) -> Iterator[Candidate]:
    begin = _begin(case.plain)
    if begin:
        yield "BOS is missing in front", case.read_with(prefix=case.plain.prefix[len(begin) :])


def _extra_bos(case: Case) -> Iterator[Candidate]:
    plain = case.plain
    begin = _begin(plain)
    if begin:
        yield "BOS stands in front twice", case.read_with(prefix=(*begin, *plain.prefix))
        return
    for name in ("bos_token_id", "eos_token_id"):
        token = getattr(plain.tokenizer, name)
        if token is not None:
            what = "BOS is put in front, and the contract has none"
            yield what, case.read_with(prefix=(token, *plain.prefix))


def _missing_prefix(case: Case) -> Iterator[Candidate]:
    if _text_prefix(case.plain):
        words = case.plain.contract["prompts"]["prefix"]
        yield f"the prompt's {words!r} in front of the text is missing", case.read_with(prefix=_begin(case.plain))


def _extra_eos(case: Case) -> Iterator[Candidate]:
    eos = case.plain.tokenizer.eos_token_id
    if case.plain.pools_slots and eos is not None:
        yield "one more EOS follows the slots", case.read_with(suffix=(*case.plain.suffix(case.prompt), eos))


def _joined(case: Case) -> Iterator[Candidate]:
    """Tokens may grow together where the text meets the prompt."""
    plain = case.plain
    if not plain.pools_slots:
        return
    prompts = plain.contract["prompts"]
    slots = "".join(plain.tokenizer.convert_ids_to_tokens(plain.suffix(case.prompt)[-plain.slots :]))
    readings = []
    for text in case.texts:
        ids = plain.text_ids(f"{prompts['prefix']}{text}{prompts[f'{case.prompt}_prompt']}{slots}")
        fits = len(plain.text_ids(text)) <= plain.limit(case.side)
        readings.append(Reading((*_begin(plain), *ids), range(0)) if fits else plain.reading(text, case.side))
    yield "text and prompt are tokenized as one string, so that tokens grow together at the seam", case.read(readings)


def _altered_text(case: Case) -> Iterator[Candidate]:
    changes: dict[str, Callable[[str], str]] = {
        "white space around the text is stripped": str.strip,
        "line breaks are replaced by spaces": lambda text: text.replace("\n", " "),
        "white space is squeezed": lambda text: " ".join(text.split()),
        "the text is lower-cased": str.lower,
        "letters are changed by Unicode normalization (NFKC)": lambda text: unicodedata.normalize("NFKC", text),
        "letters beyond ASCII are lost": lambda text: text.encode("ascii", "ignore").decode(),
    }
    for what, change in changes.items():
        yield what, case.read_with(change=change)


def _chat_template(case: Case) -> Iterator[Candidate]:
    """In the place of the text, alone, or around text and prompt."""
    plain = case.plain
    slots = plain.suffix(case.prompt)[-plain.slots :]
    prompts = plain.contract["prompts"]
    before, behind = prompts["prefix"], prompts[f"{case.prompt}_prompt"] + plain.tokenizer.decode(slots)
    for name, wrap in _wrappers(plain):
        what = f"a chat template ({name}) is wrapped around the text"
        yield what, case.read_with(change=wrap)
        if plain.pools_slots:
            yield what, case.read_with(change=wrap, suffix=slots)
            # What the template writes is all there is, and its last tokens are pooled.
            yield what, case.read_with(change=wrap, suffix=())
            around = partial(_wrapped_prompt, wrap, before, behind)
            yield what, case.read_with(change=around, prefix=_begin(plain), suffix=())


def _wrapped_prompt(wrap: Callable[[str], str], before: str, behind: str, text: str) -> str:
    return wrap(f"{before}{text}{behind}")


def _wrappers(plain: PlainModel) -> Iterator[tuple[str, Callable[[str], str]]]:
    if plain.tokenizer.chat_template:
        for generate in (False, True):
            yield "the tokenizer's own", partial(_own_template, plain.tokenizer, generate)
    vocabulary = plain.tokenizer.get_vocab()
    for name, (user, assistant) in _CHAT_TEMPLATES.items():
        if user.startswith("<") and user.split(">")[0] + ">" not in vocabulary:
            continue
        for template in dict.fromkeys((user, user + assistant)):
            yield name, template.format


def _own_template(tokenizer: Any, generate: bool, text: str) -> str:
    message = {"role": "user", "content": text}
    return str(tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=generate))


def _truncation(case: Case) -> Iterator[Candidate]:
    """Try the usual lengths."""
    plain, side = case.plain, case.side
    own, other = plain.limit(side), plain.limit(other_side(side))
    around = len(plain.prefix) + len(plain.suffix(case.prompt))
    longest = max(len(plain.text_ids(text)) for text in case.texts)
    for limit in sorted({*_USUAL_LIMITS, other, longest} - {own}):
        whose = ", the other side's limit," if limit == other else ""
        what = f"texts are cut at {limit} tokens{whose} instead of {own}"
        if limit >= longest:
            what = f"texts are not cut, where the contract's limit is {own} tokens"
        yield what, case.read_with(limit=limit)
        if limit > around:
            within = f"text and prompt together are cut at {limit} tokens, where the contract cuts the text at {own}"
            room = min(own, limit - around)
            yield within, case.read_with(limit=room)
        if plain.pools_slots:
            eaten = f"text and prompt together are cut at {limit} tokens, which cuts the prompt's end off"
            yield eaten, case.read([Reading(one.ids[:limit], range(0)) for one in case.readings()])


def _left_padding(case: Case) -> Iterator[Candidate]:
    width = max(len(one.ids) for one in case.readings())
    columns = case.plain.columns
    for pad_id in case.plain.pad_ids:
        yield (
            "a batch is padded on the left without an attention mask, so that the model reads the padding",
            _padded(case, lambda one, start: [start + at for at in columns(one)], left=True, mask=False, pad_id=pad_id),
        )
    yield (
        "a batch is padded on the left, and positions count the padding",
        _padded(case, lambda one, start: [start + at for at in columns(one)], left=True, mask=True),
    )
    for mask in (True, False):
        yield (
            f"a batch of up to {width} tokens is padded on the left, and the slots are looked for as if on the right",
            _padded(case, lambda one, _: columns(one), left=True, mask=mask),
        )


def _pad_pooled(case: Case) -> Iterator[Candidate]:
    """Padding on the right, and the last columns of the batch instead of the row's."""
    width = max(len(one.ids) for one in case.readings())
    count = case.plain.slots if case.plain.pools_slots else width
    for mask in (True, False):
        for pad_id in case.plain.pad_ids:
            yield (
                "a batch is padded on the right and its last column is pooled, which is padding for shorter texts"
                if case.plain.pools_slots
                else "the padding is averaged along",
                _padded(case, lambda *_: range(width - count, width), left=False, mask=mask, pad_id=pad_id),
            )


def _padded(
    case: Case, columns: Callable[[Reading, int], Sequence[int]], *, left: bool, mask: bool, pad_id: int | None = None
) -> Vectors:
    """Embed all texts as one batch, pooled at ``columns`` of (reading, where its row begins)."""
    plain, readings = case.plain, case.readings()
    rows, starts = plain.batch_states(
        [one.ids for one in readings], left=left, mask=mask, pad_id=plain.pad_ids[0] if pad_id is None else pad_id
    )
    found = [
        plain.finished(plain.pooled(states, columns(one, start)))
        for states, one, start in zip(rows, readings, starts, strict=True)
    ]
    return np.stack(found)


_PADDING_REMEDY = "pad on the right and pool at each row's own last tokens (the contract's padding_side)"

FAULTS: tuple[Fault, ...] = (
    Fault("no EOS", "append the contract's suffix ids, the slot included", _no_slot),
    Fault("wrong prompt", "send queries as queries and passages as passages (input_type, prompt_name)", _wrong_prompt),
    Fault("no prompt", "append the contract's suffix ids to every text", _no_prompt),
    Fault("prompt twice", "send bare texts with the side's name (--input-type-field)", _prompt_twice),
    Fault("mean pooling", "pool the slots, the last tokens of the sequence", _mean_pooling),
    Fault("other pooling", "average the text's own tokens", _token_instead_of_mean),
    Fault("one slot", "average the last hidden states of all slots", _one_slot),
    Fault("missing BOS", "put the contract's prefix ids in front (add_special_tokens)", _missing_bos),
    Fault("extra BOS", "put BOS in front only once: either the tokenizer or the prompt", _extra_bos),
    Fault("missing prefix", "put the contract's prefix ids in front", _missing_prefix),
    Fault("extra EOS", "switch off the tokenizer's or the server's own EOS", _extra_eos),
    Fault(
        "other layers", "average as many of the last layers as the contract says, each at unit length", _other_layers
    ),
    Fault("truncation", "cut the text, not the prompt, at the contract's limits", _truncation),
    Fault("left padding", _PADDING_REMEDY, _left_padding),
    Fault("pooling at a pad token", _PADDING_REMEDY, _pad_pooled),
    Fault("joined tokens", "tokenize the text alone, then append the contract's suffix ids", _joined),
    Fault("altered text", "hand the text to the tokenizer as it is", _altered_text),
    Fault(
        "chat template", "delete the tokenizer's chat_template, or ask the plain embeddings endpoint", _chat_template
    ),
)
"""Every fault that is tried, in the order in which equal ones are named."""


def fault_name(fault: Fault, case: Case) -> str:
    """Return a fault's name for a model: a missing slot is a missing EOS only where EOS is the slot."""
    return "no slots" if fault.name == "no EOS" and not _slot_is_eos(case) else fault.name
