"""An encoder as one ONNX graph: token ids in, unit vectors out; pooling and norm are part of the graph."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from llama2vec.errors import MissingDependencyError, ModelError, one_line
from llama2vec.model.backbone import decoder
from llama2vec.model.encoder import Encoder
from llama2vec.model.pooling import last_hidden_states, pool
from llama2vec.records import Vectors

logger = logging.getLogger(__name__)

ONNX_FILE, INPUTS, OUTPUT = "model.onnx", ("input_ids", "attention_mask"), "sentence_embedding"
# A protobuf file ends at 2 GiB; beyond this, weights lie in a file beside it.
_MOST_INLINE = 1 << 30
_BESIDE = f"{ONNX_FILE}.data"
_INSTALL = "{use} needs {what}; pip install 'llama2vec[onnx]'"


class Graph(torch.nn.Module):
    """What the file computes: prompted ids and their mask [B, L] → unit vectors [B, D], float32.

    Padding may stand on either side of a text: rows are turned until it stands on the right, where causal attention
    needs no mask.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.body = decoder(encoder.backbone.model)
        self.contract = encoder.contract

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the vectors."""
        width = input_ids.shape[1]
        columns = torch.arange(width, device=input_ids.device) + attention_mask.argmax(dim=1)[:, None]
        # Not the remainder: the converter has none for a width that varies.
        turned = input_ids.gather(1, torch.where(columns >= width, columns - width, columns))
        # An empty row reads its padding, EOS, which stands in for a text without tokens.
        lengths = attention_mask.sum(dim=1).clamp(min=1)
        settings = self.contract.encoder
        prompt, _ = settings.reading("passage")
        hidden = last_hidden_states(self.body, turned, settings.layers)
        return normalize(pool(hidden, lengths, self.contract.ids, settings.pooling, prompt), dim=-1)


def write_onnx(encoder: Encoder, folder: Path) -> None:
    """Write the graph of an encoder in float32 with any batch size and length.

    Raises:
        MissingDependencyError: onnx or onnxscript is not installed.
        ModelError: Padding changes this model's vectors, or torch cannot export it.
    """
    backbone = encoder.backbone
    if backbone.padding_changes_vectors or backbone.rotary_boundary:
        raise ModelError(
            f"{backbone.source.name}: texts of different length must not share a batch of this model, which an ONNX "
            "graph cannot see to; use llama2vec serve"
        )
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(_INSTALL.format(use="export", what="onnx and onnxscript")) from error
    ids = torch.arange(21).remainder(backbone.model.get_input_embeddings().weight.shape[0]).view(3, 7)
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    size = sum(weight.numel() * weight.element_size() for weight in backbone.model.parameters())
    try:
        with _quiet_export(), torch.no_grad():
            program: Any = torch.onnx.export(
                Graph(encoder).eval(), (ids, torch.ones_like(ids)), dynamo=True, verbose=False,
                dynamic_shapes=dict.fromkeys(INPUTS, axes), input_names=INPUTS, output_names=[OUTPUT],
            )  # fmt: skip
            program.save(folder / ONNX_FILE, external_data=size > _MOST_INLINE)
    # torch.export and the converter each have a dozen kinds of errors.
    except Exception as error:
        kind = type(backbone.model).__name__
        logger.debug("torch.onnx.export of %s", kind, exc_info=error)
        raise ModelError(
            f"{backbone.source.name}: torch's exporter cannot write {kind}; use llama2vec serve or "
            "sentence-transformers"
        ) from error


@contextmanager
def _quiet_export() -> Iterator[None]:
    """Silence the notices of torch's exporter."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def quantize_onnx(folder: Path) -> None:
    """Replace the weights of a written graph by 8-bit integers; activations are quantized as they come."""
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise MissingDependencyError(_INSTALL.format(use="--quantize", what="onnxruntime")) from error
    # A folder of their own, as the names stay: onnx appends to a file of weights that is there already.
    with tempfile.TemporaryDirectory(prefix=".float-", dir=folder) as place, _quiet_export():
        for file in folder.glob(f"{ONNX_FILE}*"):
            file.rename(Path(place, file.name))
        quantize_dynamic(
            Path(place, ONNX_FILE), folder / ONNX_FILE, weight_type=QuantType.QInt8, per_channel=True,
            use_external_data_format=Path(place, _BESIDE).exists(),
        )  # fmt: skip


class OnnxModel:
    """A written graph in ONNX Runtime.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        ModelError: The file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise MissingDependencyError(_INSTALL.format(use="reading ONNX", what="onnxruntime")) from error
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        # The errors of onnxruntime have no common type.
        except Exception as error:
            raise ModelError(f"{path}: ONNX Runtime cannot open it ({one_line(error)}); export it again") from None

    def embed(self, rows: Sequence[Sequence[int]], *, pad_id: int, left: bool = False) -> Vectors:
        """Return the vectors [N, D] of prompted ids, read as one batch with padding on one side."""
        width = max(1, *map(len, rows))
        ids, mask = np.full((len(rows), width), pad_id), np.zeros((len(rows), width), np.int64)
        for row, own in enumerate(rows):
            place = slice(width - len(own), width) if left else slice(0, len(own))
            ids[row, place], mask[row, place] = own, 1
        (vectors,) = self._session.run([OUTPUT], dict(zip(INPUTS, (ids, mask), strict=True)))
        return np.asarray(vectors, dtype=np.float32)
