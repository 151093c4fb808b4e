"""Directions that nearly all vectors of a model share, learnt from plain text and taken away from every vector.

Hidden states of language models crowd into a narrow cone: a mean and a few principal components that say more about
length and frequency than about meaning dominate every cosine. Taking them away is "all but the top" (Mu and Viswanath,
ICLR 2018, arXiv 1702.01417). The map is affine, so any library with a dense layer can repeat it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llama2vec.config import PromptName
from llama2vec.errors import ContractError

DIRECTIONS_FILE = "common_directions.safetensors"

Vectors = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class CommonDirections:
    """What to take away from unit vectors.

    Attributes:
        mean: [D] mean vector.
        axes: [K, D] orthonormal principal components, the strongest first.
    """

    mean: Vectors
    axes: Vectors

    @classmethod
    def fit(cls, vectors: Vectors, count: int) -> CommonDirections:
        """Find the mean and the ``count`` strongest components of [N, D] unit vectors.

        Fewer components are kept where the vectors do not span as many.
        """
        exact = vectors.astype(np.float64)
        mean = exact.mean(axis=0)
        _, scales, axes = np.linalg.svd(exact - mean, full_matrices=False)
        spanned = int((scales > 1e-6 * max(scales[0], 1e-12)).sum())
        return cls(mean.astype(np.float32), np.ascontiguousarray(axes[: min(count, spanned)], dtype=np.float32))

    def remove(self, vectors: Vectors) -> Vectors:
        """Return [N, D] unit vectors without the mean and the components.

        >>> common = CommonDirections(np.float32([0.5, 0, 0]), np.float32([[0, 1, 0]]))
        >>> common.remove(np.float32([[0.5, 0.6, 0.8]])).tolist()
        [[0.0, 0.0, 1.0]]
        """
        centred = vectors - self.mean
        centred -= (centred @ self.axes.T) @ self.axes
        length = np.linalg.norm(centred, axis=1, keepdims=True)
        # A text whose vector is the mean itself has no direction left; it stays zero and matches nothing.
        unit: Vectors = (centred / np.maximum(length, 1e-12)).astype(np.float32)
        return unit


def save_directions(directions: Mapping[PromptName, CommonDirections], folder: Path) -> None:
    """Write the directions of each prompt as one safetensors file; nothing where there are none."""
    from safetensors.numpy import save_file

    if not directions:
        return
    tensors: dict[str, Vectors] = {}
    for prompt, common in directions.items():
        tensors |= {f"{prompt}.mean": common.mean, f"{prompt}.axes": common.axes}
    save_file(tensors, folder / DIRECTIONS_FILE)


def load_directions(folder: Path, prompts: tuple[PromptName, ...]) -> dict[PromptName, CommonDirections]:
    """Read the directions of each prompt.

    Raises:
        ContractError: The contract names directions and the file does not hold them.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path = folder / DIRECTIONS_FILE
    try:
        tensors = load_file(path)
        return {prompt: CommonDirections(tensors[f"{prompt}.mean"], tensors[f"{prompt}.axes"]) for prompt in prompts}
    except (OSError, SafetensorError, KeyError) as error:
        raise ContractError(f"{path}: the common directions cannot be read ({error}); restore the file") from None
