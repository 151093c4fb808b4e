"""Pooling: slots and text tokens are found from lengths alone, whatever fills the padding."""

from __future__ import annotations

import torch

from llama2vec.model.pooling import pool, slot_states
from llama2vec.model.prompt import PromptIds

IDS = PromptIds((7,), {"self": (8, 9, 9)}, 2)


def hidden(*rows: list[float], width: int = 6) -> torch.Tensor:
    """[B, L, 1] with 100 in the padding."""
    return torch.tensor([[*row, *[100.0] * (width - len(row))] for row in rows])[:, :, None]


def test_slots_end_each_row() -> None:
    states = slot_states(hidden([1, 2, 3, 4, 5, 6], [1, 2, 3, 4]), torch.tensor([6, 4]), 2)
    assert states[:, :, 0].tolist() == [[5, 6], [3, 4]]


def test_slot_pooling_is_the_mean_over_the_slots() -> None:
    pooled = pool([hidden([1, 2, 3, 4, 5, 6], [1, 2, 3, 4])], torch.tensor([6, 4]), IDS, "slots", "self")
    assert pooled[:, 0].tolist() == [5.5, 3.5]


def test_mean_pooling_skips_prefix_prompt_and_padding() -> None:
    lengths = torch.tensor([6, 5, 4])
    pooled = pool([hidden([0, 1, 2, 50, 50, 50], [0, 3, 50, 50, 50], [4, 50, 50, 50])], lengths, IDS, "mean", "self")
    assert pooled[:, 0].tolist() == [1.5, 3, 4]  # An empty text has its prefix.
    plain = pool([hidden([0, 1, 2, 3, 4, 5])], torch.tensor([6]), IDS, "mean", None)
    assert plain[:, 0].tolist() == [3]


def test_several_layers_count_alike_whatever_their_lengths() -> None:
    one, other = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[[0.0, 500.0]]])
    pooled = pool([one, other], torch.tensor([1]), PromptIds((), {"self": (9,)}, 1), "slots", "self")
    torch.testing.assert_close(pooled, torch.tensor([[0.3, 0.9]]))


def test_mean_pooling_reads_the_second_of_two_copies() -> None:
    echo = PromptIds((7,), {"self": (8, 9)}, 1, repeat=(5, 6))
    # Prefix, two tokens, the text between, the two again; then one token twice, with a prompt.
    rows = hidden([0, 50, 50, 50, 50, 3, 5], [0, 50, 50, 50, 4, 60, 60], width=8)
    assert pool([rows[:1]], torch.tensor([7]), echo, "mean", None)[:, 0].tolist() == [4]
    assert pool([rows[1:]], torch.tensor([7]), echo, "mean", "self")[:, 0].tolist() == [4]
