"""An encoder whose passes run in vLLM, for models that vLLM opens as they are (``encoder.servable``).

Written to the documentation of vLLM 0.22 (``LLM(model, runner="pooling")``, ``LLM.embed``, ``TokensPrompt``), and not
run against vLLM itself. vLLM gets token ids, so that its tokenizer decides nothing: prefix, text cut at the limit, and
prompt, as the contract says. It pools and normalizes as the model's ``modules.json`` declares. Before the first passage
it is asked for the model's golden texts, and refused where its vectors point elsewhere.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from llama2vec.config import ModelSettings
from llama2vec.errors import BackendError, ConfigError, ContractError, MissingDependencyError, one_line
from llama2vec.model.source import ModelSpec
from llama2vec.records import Passage
from llama2vec.retrieve.store.reader import Vectors
from llama2vec.retrieve.store.reuse import BatchwiseEncoder

logger = logging.getLogger(__name__)

_AT_ONCE = 512
"""Passages in a call: vLLM batches them by itself, and what it returned is kept if the next call fails."""
_LEAST_COSINE, _LENGTH = 0.99, 1e-2
"""How near vLLM comes to a golden vector in any number format, and how far the length of a vector may be from 1."""


class VllmEncoder(BatchwiseEncoder):
    """A :class:`~llama2vec.retrieve.store.reader.PassageEncoder` of one vLLM engine in this process.

    Args:
        spec: A servable encoder.
        settings: Its number format; ``auto`` is that of the saved weights. vLLM chooses the device.

    Raises:
        MissingDependencyError: vLLM is not installed.
        ContractError: The model is not servable, or its files are not those of its contract.
        BackendError: vLLM cannot load the model, or gives other vectors.
    """

    def __init__(self, spec: ModelSpec, settings: ModelSettings) -> None:
        if settings.device != "auto":
            raise ConfigError(f"--device {settings.device}: vLLM chooses its device itself; leave it out")
        if importlib.util.find_spec("vllm") is None:
            raise MissingDependencyError("--engine vllm needs vLLM, which is not installed; run: pip install vllm")
        from llama2vec.model.contract import load_contract, saved_contract
        from llama2vec.model.golden import load_golden
        from llama2vec.model.local import fetched
        from llama2vec.model.publish.prompted_tokenizer import surroundings
        from llama2vec.model.tokenizer import load_model_config, load_tokenizer

        source = fetched(spec.source())
        folder, self.spec, self._name = Path(source.location), spec, source.name
        _check_servable(source.name, saved_contract(folder) if source.carries_contract else None)
        self._tokenizer = load_tokenizer(spec.path or spec.name)
        self._contract = load_contract(folder, self._tokenizer)
        self._contract.check_files(folder)
        self.contract_hash = self._contract.hash
        self.dimension = int(load_model_config(spec.path or spec.name).get_text_config().hidden_size)
        self.dtype = self._contract.dtype if settings.dtype == "auto" else settings.dtype
        golden = load_golden(folder, self.contract_hash)
        self._prompt, self._most = self._contract.encoder.reading("passage")
        self._llm = self._opened(folder, self._most + sum(map(len, surroundings(self._contract, "passage"))))
        self._check_golden(list(golden.texts), golden.vectors["passage"])

    def passage_batches(
        self, passages: Sequence[Passage], skip: npt.NDArray[np.bool_] | None = None
    ) -> Iterator[tuple[Sequence[int], Vectors]]:
        """Yield (rows, [n, D] vectors) of all passages but those that are ``skip`` [N]."""
        from llama2vec.model.batching import texts_of

        rows = np.arange(len(passages)) if skip is None else np.flatnonzero(~skip)
        for begin in range(0, len(rows), _AT_ONCE):
            part = rows[begin : begin + _AT_ONCE].tolist()
            yield part, self._embedded(texts_of([passages[row] for row in part]))

    def count_cut(self, passages: Sequence[Passage]) -> int:
        """Return how many passages are longer than the model reads of them."""
        from llama2vec.model.prompt import count_longer

        return count_longer(self._tokenizer, [passage.full_text for passage in passages], self._most)

    def _opened(self, folder: Path, most_tokens: int) -> Any:
        """Start vLLM's engine; its errors are of many kinds, since it may run in another process."""
        from vllm import LLM

        logger.info("starting vLLM in %s with up to %d tokens a passage", self.dtype, most_tokens)
        try:
            return LLM(model=str(folder), runner="pooling", dtype=self.dtype, max_model_len=most_tokens)
        except Exception as error:
            raise BackendError(
                f"vLLM cannot load {self._name} ({one_line(error)}); its own messages above say more; encode without "
                "--engine vllm if they do not help"
            ) from error

    def _embedded(self, texts: list[str]) -> Vectors:
        """Return [N, D] unit vectors of texts, in their order."""
        from llama2vec.model.prompt import prompted_texts

        ids = prompted_texts(self._tokenizer, texts, self._contract.ids, self._prompt, self._most)
        try:
            found = self._llm.embed([{"prompt_token_ids": row} for row in ids], use_tqdm=False)
        except Exception as error:
            raise BackendError(
                f"vLLM failed ({one_line(error)}); run the same command again: finished shards are kept"
            ) from error
        # What vLLM read is in its answer: an answer out of order, or a cut text, would be a wrong vector.
        if [list(one.prompt_token_ids) for one in found] != ids:
            raise BackendError("vLLM read other token ids than it was sent; check its version (docs/cluster.md)")
        vectors = np.array([one.outputs.embedding for one in found], dtype=np.float32)
        if vectors.shape != (len(ids), self.dimension):
            raise BackendError(
                f"vLLM returned vectors of shape {vectors.shape} for {len(ids)} texts of width {self.dimension}; "
                "check its version (docs/cluster.md)"
            )
        lengths = np.linalg.norm(vectors, axis=1)
        if not (np.abs(lengths - 1) < _LENGTH).all():  # False for what is not finite, too
            raise BackendError(
                f"vLLM returned a vector of length {lengths[np.abs(lengths - 1).argmax()]:.3g} instead of 1; "
                "check that it reads the model's modules.json, or choose another --dtype"
            )
        unit: Vectors = vectors / lengths[:, None]
        return unit

    def _check_golden(self, texts: list[str], expected: Vectors) -> None:
        found = self._embedded(texts)
        cosines, difference = (found * expected).sum(axis=1), float(np.abs(found - expected).max())
        logger.info("vLLM's golden vectors differ by at most %.2g from the model's", difference)
        if cosines.min() < _LEAST_COSINE:
            raise BackendError(
                f"vLLM gives other vectors than {self._name} was saved with: the cosine of golden text "
                f"{int(cosines.argmin()) + 1} is {cosines.min():.3f}; encode without --engine vllm"
            )


def _check_servable(name: str, contract: Any) -> None:
    from llama2vec.model.limits import obstacles

    if contract is not None and contract.encoder.servable:
        return
    reasons = obstacles(contract.ids, contract.encoder) if contract is not None else ["it has no saved contract"]
    why = f": {'; '.join(reasons)}" if reasons else ""
    raise ContractError(
        f"{name} is not servable, so vLLM cannot give its vectors{why}; train with encoder.servable = true, or encode "
        "without --engine vllm"
    )
