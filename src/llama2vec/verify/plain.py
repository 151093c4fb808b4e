"""A saved model read from its contract file with stock transformers only.

Nothing here uses the encoder's batching, prompts or pooling. Golden vectors are worth something because two independent
readings agree, and faults can be planted here because every step is visible.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llama2vec.config import PromptName
from llama2vec.errors import ContractError, one_line
from llama2vec.model.contract import CONTRACT_FILE, prefix_words
from llama2vec.model.loading import quiet_transformers
from llama2vec.model.tokenizer import load_tokenizer
from llama2vec.records import Side, Vectors

_KEPT_STATES = 16


@dataclass(frozen=True, slots=True)
class Reading:
    """One text as the model reads it."""

    ids: tuple[int, ...]  # prefix + text + suffix
    text: range  # The columns of the text


class PlainModel:
    """A saved model loaded with ``AutoModel`` and read to the letter of its contract.

    Attributes:
        slots: S, the number of slots at the end of a suffix.
        layers: How many of the last layers are averaged.
        pools_slots: Whether the slots are pooled rather than the text's own tokens.
        context: Longest sequence the model reads.
        pad_ids: Ids that a stack might pad with: the tokenizer's padding token, its EOS, 0.

    Raises:
        ContractError: transformers cannot load the folder.
    """

    def __init__(self, folder: Path, dtype: str, device: torch.device) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.contract: dict[str, Any] = json.loads((folder / CONTRACT_FILE).read_text(encoding="utf-8"))
        try:
            with quiet_transformers():
                self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
                model: Any = AutoModel.from_pretrained(folder, dtype=getattr(torch, dtype), trust_remote_code=False)
        except (OSError, ValueError, KeyError) as error:
            raise ContractError(
                f"{folder}: AutoModel cannot load it ({one_line(error)}); save the model again"
            ) from None
        self.model: Any = model.to(device).eval()
        # Texts are cut below; without this the tokenizer warns about long ones first.
        self.tokenizer.model_max_length = int(1e30)
        settings, ids = self.contract["encoder"], self.contract["token_ids"]
        self.slots = int(ids["slots"])
        self.layers = int(settings.get("layers", 1))
        self.pools_slots = settings["pooling"] == "slots"
        self.context = int(getattr(self.model.config, "max_position_embeddings", None) or 1 << 40)
        known = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        self.pad_ids = list(dict.fromkeys(one for one in known if one is not None)) or [0]
        self._ids: dict[str, tuple[int, ...]] = {}
        self._states: OrderedDict[tuple[int, ...], tuple[Tensor, ...]] = OrderedDict()

    def prompt(self, side: Side) -> PromptName:
        """Return the prompt of a side."""
        name: PromptName = self.contract["encoder"][f"{side}_prompt"]
        return name

    def limit(self, side: Side) -> int:
        """Return the longest text of a side in tokens."""
        return int(self.contract["encoder"][f"{side}_max_tokens"])

    def prefix(self, side: Side) -> tuple[int, ...]:
        """Return the ids before the text of a side."""
        ids = self.contract["token_ids"]
        return tuple(ids.get("next_prefix", ids["prefix"]) if self.prompt(side) == "next" else ids["prefix"])

    def suffix(self, prompt: PromptName) -> tuple[int, ...]:
        """Return the ids after the text; empty where the text itself is averaged."""
        return tuple(self.contract["token_ids"]["suffixes"][prompt]) if self.pools_slots else ()

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Return all token ids of a text by itself."""
        if text not in self._ids:
            self._ids[text] = tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return self._ids[text]

    def reading(
        self,
        text: str,
        side: Side,
        *,
        prefix: Sequence[int] | None = None,
        suffix: Sequence[int] | None = None,
        limit: int | None = None,
    ) -> Reading:
        """Cut a text and put the contract's ids around it; each may be replaced."""
        body = self.text_ids(text)[: limit or self.limit(side)]
        before = self.prefix(side) if prefix is None else tuple(prefix)
        after = self.suffix(self.prompt(side)) if suffix is None else tuple(suffix)
        ids = (*before, *body, *after) or (self.tokenizer.eos_token_id or 0,)
        return Reading(ids, range(len(before), len(before) + len(body)))

    def columns(self, reading: Reading) -> list[int]:
        """Return the columns that the contract pools: the slots, or the text (the token before an empty one)."""
        if self.pools_slots:
            return list(range(len(reading.ids) - self.slots, len(reading.ids)))
        return list(reading.text) or [max(reading.text.start - 1, 0)]

    @torch.inference_mode()
    def states(self, ids: Sequence[int]) -> tuple[Tensor, ...]:
        """Return the hidden states of one unpadded sequence, lowest layer first: each [L, D] float32."""
        key = tuple(ids)
        if key not in self._states:
            rows = torch.tensor([key], device=self.model.device)
            output = self.model(input_ids=rows, use_cache=False, output_hidden_states=True)
            self._states[key] = tuple(layer[0].float().cpu() for layer in _layers(output))
            while len(self._states) > _KEPT_STATES:
                self._states.popitem(last=False)
        return self._states[key]

    @torch.inference_mode()
    def batch_states(
        self, rows: Sequence[Sequence[int]], *, left: bool, mask: bool, pad_id: int
    ) -> tuple[list[tuple[Tensor, ...]], list[int]]:
        """Read one padded batch: per row the states [L, D] of each layer, and the column where it begins."""
        width = max(map(len, rows))
        starts = [width - len(row) if left else 0 for row in rows]
        ids = torch.full((len(rows), width), pad_id)
        attention = torch.zeros((len(rows), width), dtype=torch.long)
        for number, (row, start) in enumerate(zip(rows, starts, strict=True)):
            ids[number, start : start + len(row)] = torch.tensor(row)
            attention[number, start : start + len(row)] = 1
        device = self.model.device
        seen = attention.to(device) if mask else None
        output = self.model(
            input_ids=ids.to(device), attention_mask=seen, use_cache=False, output_hidden_states=True
        )  # fmt: skip
        layers = [layer.float().cpu() for layer in _layers(output)]
        return [tuple(layer[number] for layer in layers) for number in range(len(rows))], starts

    def pooled(self, states: Sequence[Tensor], columns: Sequence[int], layers: Sequence[int] | None = None) -> Vectors:
        """Return a unit vector [D]: columns averaged over the contract's layers, or ``layers`` of ``hidden_states``.

        With several layers, the average of each is brought to unit length first.
        """
        chosen = range(len(states) - self.layers, len(states)) if layers is None else layers
        means = [states[layer][list(columns)].mean(dim=0) for layer in chosen]
        if len(means) > 1:
            means = [torch.stack([_unit(mean) for mean in means]).mean(dim=0)]
        vector: Vectors = _unit(means[0]).numpy().astype(np.float32)
        return vector

    def embed(self, side: Side, texts: Sequence[str]) -> Vectors:
        """Return [N, D] float32 unit vectors of texts embedded as one batch, padded on the right and masked."""
        readings = [self.reading(text, side) for text in texts]
        rows, _ = self.batch_states([one.ids for one in readings], left=False, mask=True, pad_id=self.pad_ids[0])
        return np.stack([self.pooled(row, self.columns(one)) for row, one in zip(rows, readings, strict=True)])


def _layers(output: Any) -> list[Tensor]:
    """Return the states [B, L, D] of a model's layers, the lowest first; inner ones of Gemma 3n have more streams."""
    last = output.last_hidden_state
    return [*(state for state in output.hidden_states[:-1] if state.shape == last.shape), last]


def _unit(vector: Tensor) -> Tensor:
    unit: Tensor = vector / vector.norm().clamp(min=1e-12)
    return unit


def input_as_text(contract: dict[str, Any], tokenizer: Any, side: Side, text: str) -> str:
    """Write what the model reads as one text, for a program that adds no prompts: prefix, text, wording, slots.

    The text is cut at the side's limit, which the program does not know. The program's tokenizer adds BOS.
    """
    encoder, prompts = contract["encoder"], contract["prompts"]
    limit = encoder[f"{side}_max_tokens"]
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=bool(tokenizer.is_fast))
    if len(found["input_ids"]) > limit:
        ids = found["input_ids"][:limit]
        text = text[: found["offset_mapping"][limit - 1][1]] if tokenizer.is_fast else tokenizer.decode(ids)
    words = prefix_words(contract, side)
    if encoder["pooling"] != "slots":
        return f"{words}{text}"
    name = encoder[f"{side}_prompt"]
    return f"{words}{text}{prompts[f'{name}_prompt']}{slot_words(contract, tokenizer, name)}"


def slot_words(contract: dict[str, Any], tokenizer: Any, prompt: PromptName) -> str:
    """Return the slots of a prompt as text; nothing where the wording's last token is the slot."""
    if contract["prompts"].get("slot") == "last":
        return ""
    ids = contract["token_ids"]["suffixes"][prompt][-contract["token_ids"]["slots"] :]
    return "".join(tokenizer.convert_ids_to_tokens(ids))


def text_input(folder: Path, *, servable_bare: bool = True) -> Callable[[Side, str], str]:
    """Return what to send of a text to a server: itself where its tokenizer adds the prompt, else with the prompt.

    Args:
        folder: The saved model.
        servable_bare: Whether the server runs the tokenizer of a servable encoder, which adds the prompt.
    """
    contract: dict[str, Any] = json.loads((folder / CONTRACT_FILE).read_text(encoding="utf-8"))
    if servable_bare and adds_prompts(folder):
        return lambda side, text: text
    return partial(input_as_text, contract, load_tokenizer(str(folder)))


def adds_prompts(folder: Path) -> bool:
    """Tell whether the saved tokenizer adds the prompts, as that of a servable encoder does."""
    contract: dict[str, Any] = json.loads((folder / CONTRACT_FILE).read_text(encoding="utf-8"))
    return bool(contract["encoder"].get("servable"))


NEAR_COSINE = 0.99
"""Two vectors with a lower cosine are different in any number format."""


@dataclass(frozen=True, slots=True)
class Case:
    """One side of a model, and what a backend gave for it."""

    plain: PlainModel  # The model
    side: Side  # Query or passage
    texts: tuple[str, ...]  # N golden texts
    golden: Vectors  # [N, D] golden vectors
    given: Vectors  # [N, D] the backend's, at unit length

    @property
    def prompt(self) -> PromptName:
        """The prompt that the side should have."""
        return self.plain.prompt(self.side)

    @property
    def slot_ids(self) -> tuple[int, ...]:
        """Ids of the slots that end the side's suffix."""
        return self.plain.suffix(self.prompt)[-self.plain.slots :]

    @property
    def slot_is_eos(self) -> bool:
        """Whether the model has no slot tokens of its own and pools EOS."""
        return not self.plain.contract["prompts"]["slots"]

    @property
    def prefix_words(self) -> tuple[int, ...]:
        """Ids of the words that the prompt puts before the text."""
        words = prefix_words(self.plain.contract, self.side)
        return self.plain.text_ids(words) if words else ()

    @property
    def prefix(self) -> tuple[int, ...]:
        """All ids before the text."""
        return self.plain.prefix(self.side)

    @property
    def begin(self) -> tuple[int, ...]:
        """Ids before the prefix's words: BOS, where the contract has one."""
        return self.prefix[: len(self.prefix) - len(self.prefix_words)]

    def readings(self) -> list[Reading]:
        """Return the texts as they should be read."""
        return [self.plain.reading(text, self.side) for text in self.texts]

    def bare_readings(self) -> list[Reading]:
        """Return the texts as a library reads them that knows neither prompts nor limits, only the context."""
        limit = self.plain.context - len(self.begin)
        return [self.plain.reading(text, self.side, prefix=self.begin, suffix=(), limit=limit) for text in self.texts]

    def read(self, readings: Sequence[Reading]) -> Vectors | None:
        """Embed other readings of the texts, pooled as the contract says; None where one does not fit or match."""
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
        options = {"prefix": prefix, "suffix": suffix, "limit": limit}
        return self.read([self.plain.reading(change(text), self.side, **options) for text in self.texts])  # type: ignore[arg-type]

    def pool(
        self,
        columns: Callable[[Reading], Sequence[int]],
        layers: Sequence[int] | None = None,
        readings: Sequence[Reading] = (),
    ) -> Vectors | None:
        """Read each text as it should be, or as ``readings`` say, and pool other columns or other layers.

        Returns:
            [N, D]; None where a text has no such column, or as soon as one vector is unlike the backend's: each text
            costs a pass through the model.
        """
        readings = readings or self.readings()
        vectors = np.empty_like(self.golden)
        for row in sorted(range(len(readings)), key=lambda row: len(readings[row].ids)):
            chosen = list(columns(readings[row]))
            if not chosen or min(chosen) < 0:
                return None
            vectors[row] = self.plain.pooled(self.plain.states(readings[row].ids), chosen, layers)
            if not float(vectors[row] @ self.given[row]) > NEAR_COSINE:
                return None
        return vectors

    def pool_batch(
        self, columns: Callable[[Reading, int], Sequence[int]], *, left: bool, mask: bool, pad_id: int | None = None
    ) -> Vectors:
        """Embed all texts as one padded batch, pooled at ``columns`` of (reading, column where its row begins)."""
        plain, readings = self.plain, self.readings()
        ids = [one.ids for one in readings]
        pad = plain.pad_ids[0] if pad_id is None else pad_id
        rows, starts = plain.batch_states(ids, left=left, mask=mask, pad_id=pad)
        found = zip(rows, readings, starts, strict=True)
        return np.stack([plain.pooled(states, columns(one, start)) for states, one, start in found])
