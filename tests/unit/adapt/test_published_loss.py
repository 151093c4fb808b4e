"""The released recipe's loss, written a second time from the paper and the authors' arithmetic, on a tiny Llama."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from llama2vec.adapt.reading import JointReader
from llama2vec.adapt.settings import ObjectiveSettings
from llama2vec.adapt.train import PretextObjective
from llama2vec.config import PROMPT_RECIPES
from llama2vec.data.text.words import stop_words
from llama2vec.model.adapters import add_slot_tokens_and_rows
from llama2vec.model.backbone import Backbone
from llama2vec.model.prompt import prompt_ids
from llama2vec.model.source import ModelSource
from llama2vec.pretext.targets import TargetTokenizer
from llama2vec.records import AdaptationExample

SELF = '", summarize the above passage within eight words: <s1><s2><s3><s4><s5><s6><s7><s8>'
NEXT = '", predict the following passage within eight words: <s9><s10><s11><s12><s13><s14><s15><s16>'


def published_loss(model: Any, tokenizer: Any, rows: list[tuple[str, list[int], list[int]]]) -> tuple[float, ...]:
    """LM loss on T + 0.1 * mean(EBAE, EBAR), each prompt in a pass of its own, in float64.

    Args:
        rows: Text, target ids of T, target ids of U.
    """
    prefix = tokenizer('"')["input_ids"]
    suffixes = [tokenizer(suffix)["input_ids"][1:] for suffix in (SELF, NEXT)]
    lm_sum, lm_count = 0.0, 0
    bags: list[list[float]] = [[], []]
    for text, self_targets, next_targets in rows:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        for task, (suffix, targets) in enumerate(zip(suffixes, (self_targets, next_targets), strict=True)):
            with torch.no_grad():
                logits = model(torch.tensor([prefix + ids + suffix])).logits[0].double()
            # Eight slots, one distribution: the largest logit of each token, then log-softmax.
            distribution = torch.log_softmax(logits[-8:].max(dim=0).values, dim=0)
            bags[task].append(-sum(distribution[token].item() for token in set(targets)) / len(set(targets)))
            if task == 0:
                for place in range(len(prefix), len(prefix) + len(ids)):
                    lm_sum -= torch.log_softmax(logits[place - 1], dim=0)[ids[place - len(prefix)]].item()
                    lm_count += 1
    ebae, ebar = (sum(values) / len(values) for values in bags)
    lm = lm_sum / lm_count
    return lm + 0.1 * (ebae + ebar) / 2, lm, ebae, ebar


@pytest.mark.parametrize("with_stop_words_left_out", [True, False])
def test_the_released_recipe_gives_the_authors_loss(
    make_model: Callable[..., Any], tokenizer: Any, sentences: list[str], with_stop_words_left_out: bool
) -> None:
    backbone = Backbone(make_model("llama"), tokenizer, ModelSource("tiny", "tiny"))
    recipe = PROMPT_RECIPES["released"]
    assert add_slot_tokens_and_rows(backbone, recipe) == [f"<s{number}>" for number in range(1, 17)]
    settings = ObjectiveSettings(language_model_weight=1, pretext_weight=0.1)
    skip = stop_words("en") if with_stop_words_left_out else None
    tokenize = TargetTokenizer(tokenizer, 64, skip)
    objective = PretextObjective(
        tokenize, prompt_ids(tokenizer, recipe), settings, JointReader(backbone.model.config, torch.float32), pad_id=2
    )
    pairs = [(sentences[0], sentences[1]), (sentences[2][:30], sentences[3]), ("Harbour", sentences[4])]
    found, parts = objective.loss(backbone.model, objective.collate([AdaptationExample(*pair) for pair in pairs]))

    def targets(text: str) -> list[int]:
        if with_stop_words_left_out:
            # "The" and "of the" are the only stop words here and the full stop the only punctuation.
            return independent_targets(tokenizer, text)
        return [token for token in tokenizer(text, add_special_tokens=False)["input_ids"] if token > 2]

    expected = published_loss(backbone.model, tokenizer, [(one, targets(one), targets(two)) for one, two in pairs])
    assert found.item() == pytest.approx(expected[0], rel=1e-5)
    assert (parts["loss_lm"], parts["loss_self"], parts["loss_next"]) == pytest.approx(expected[1:], rel=1e-5)


def independent_targets(tokenizer: Any, text: str) -> list[int]:
    """Tokenize word by word, drop the stop words, the full stop and bare spaces."""
    kept: list[int] = []
    for number, word in enumerate(text.replace(".", "").split(" ")):
        if word.lower() not in {"the", "of"}:
            kept += tokenizer(f" {word}" if number else word, add_special_tokens=False)["input_ids"]
    # A token that is nothing but the space in front of a word tells nothing about the text.
    space = tokenizer.convert_tokens_to_ids("Ġ")
    return [token for token in dict.fromkeys(kept) if token != space]
