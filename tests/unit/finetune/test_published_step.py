"""One step of stage 2 gives the loss and the gradient norm that the authors' own code gave."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from published_numbers import NUMBERS, published_llama, published_prompts

from llama2vec.config import EncoderSettings
from llama2vec.finetune.batches import DrawnExample, contrastive_batch
from llama2vec.finetune.settings import ContrastiveSettings, ExamplesSettings
from llama2vec.finetune.train import ContrastiveObjective

GIVEN = NUMBERS["finetune"]


@pytest.mark.parametrize("graph_tokens", [0, 200])  # Read once, and in parts of which most are read twice
def test_a_contrastive_step_is_that_of_the_authors_code(graph_tokens: int) -> None:
    model = published_llama()
    encoder: Any = SimpleNamespace(
        backbone=SimpleNamespace(model=model, padding_changes_vectors=False, rotary_boundary=0), pad_id=0,
        contract=SimpleNamespace(ids=published_prompts(), encoder=EncoderSettings(layers=1)),
    )  # fmt: skip
    settings = ContrastiveSettings(temperature=0.01, graph_tokens=graph_tokens, micro_batch_tokens=graph_tokens)
    objective = ContrastiveObjective(encoder, settings, ExamplesSettings())
    group = len(GIVEN["passages"][0])
    drawn = [
        DrawnExample(
            query=f"query {row}", passages=tuple(f"passage {row} {place}" for place in range(group)), positive_count=1,
            passage_keys=tuple((1 + row * group + place, 0) for place in range(group)),
            answer_keys=(1 + row * group,), teacher_scores=(),
        )
        for row in range(len(GIVEN["queries"]))
    ]  # fmt: skip
    passages = [ids for row in GIVEN["passages"] for ids in row]
    loss, _ = objective.loss(model, {"batch": contrastive_batch(drawn, GIVEN["queries"], passages)})
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm().item()
    # Cosines divided by 0.01: rounding counts a hundredfold.
    assert loss.item() == pytest.approx(GIVEN["loss"], abs=1e-4)
    assert norm == pytest.approx(GIVEN["gradient_norm"], rel=1e-5)
