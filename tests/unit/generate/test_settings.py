"""What settings of generation are refused, and that the prompt's examples are questions of the right shape."""

from __future__ import annotations

import pytest

from llama2vec.config import load_config
from llama2vec.errors import ConfigError
from llama2vec.generate.settings import FEW_SHOT, GenerateConfig


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("generate.prompt=Ask:", r"must name \{passage\} once"),
        ("generate.prompt='{passage} {passage}'", r"must name \{passage\} once"),
        ("generate.temperature=0", r"writes the same question 2 times; set questions = 1"),
        ("generate.min_words=30", r"min_words \(30\) must be at most max_words \(24\)"),
        ("generate.question=3", r"did you mean 'generate.questions'"),
    ],
)
def test_a_mistake_is_named(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(GenerateConfig, None, [override])


def test_the_prompt_ends_where_the_question_begins() -> None:
    settings = GenerateConfig().generate
    assert settings.prompt == FEW_SHOT
    assert settings.prompt.endswith("Passage: {passage}\nQuestion:")
    examples = [line for line in FEW_SHOT.split("\n") if line.startswith("Question: ")]
    assert len(examples) == 3
    assert all(settings.min_words <= len(line.split()) - 1 <= settings.max_words for line in examples)
