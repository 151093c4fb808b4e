"""Settings in the errors and log lines of a run have names that ``run --set`` takes."""

from __future__ import annotations

import logging

import pytest

from llama2vec.adapt.settings import AdaptConfig
from llama2vec.errors import TrainingError
from llama2vec.finetune.settings import FinetuneConfig
from llama2vec.pipeline.naming import SHARED_SECTIONS, named_as_in_a_run, settings_named_as_in_a_run
from llama2vec.pipeline.settings import RunConfig
from llama2vec.settings import Settings, section_of


def test_only_settings_of_a_training_get_its_name() -> None:
    said = "data.jsonl and my/data.sources: set data.sources, or finetune.optimizer.steps, model.dtype"
    with pytest.raises(TrainingError) as raised, settings_named_as_in_a_run("finetune"):
        raise TrainingError(said)
    assert str(raised.value) == said.replace("set data.sources", "set finetune.data.sources")


def test_every_setting_of_a_training_gets_a_name_that_the_run_has() -> None:
    for stage, config in (("adapt", AdaptConfig), ("finetune", FinetuneConfig)):
        for section, field in config.model_fields.items():
            for name in getattr(field.annotation, "model_fields", ()):
                found = named_as_in_a_run(stage, f"raise {section}.{name}").removeprefix("raise ").split(".")
                at: type[Settings] | None = RunConfig
                for part in found[:-1]:
                    assert at is not None
                    at = section_of(at.model_fields[part].annotation)
                assert at is not None
                assert found[-1] in at.model_fields
    for section, kind in SHARED_SECTIONS.items():
        assert RunConfig.model_fields[section].annotation is kind


@pytest.mark.parametrize(
    ("stage", "said", "expected"),
    [
        ("adapt", "raise text.max_tokens (text.max_words)", "raise adapt.text.max_tokens (adapt.text.max_words)"),
        ("adapt", "encoder.drop_layers, encoder.layers", "adapt.encoder.drop_layers, encoder.layers"),
        ("finetune", "pretext.weight is 0", "finetune.pretext.weight is 0"),
        ("finetune", "give them neg_scores (mine --teacher)", "give them neg_scores (mine.teacher)"),
        ("pairs", "generate.passage_max_tokens is cut", "pairs.generated.passage_max_tokens is cut"),
        ("pairs", "no end within question_max_tokens", "no end within pairs.generated.question_max_tokens"),
        ("pairs", "lower passage_min_words or choose", "lower pairs.from_corpus.passage_min_words or choose"),
        ("mine", "raise query_max_tokens; mine.last_rank", "raise encoder.query_max_tokens; mine.last_rank"),
        ("evaluate", "windows=maxp scores windows", "evaluate.windows=maxp scores windows"),
        ("encode", "split them with --set passages.split=always", "split them with --set passages.split=always"),
    ],
)  # fmt: skip
def test_messages_of_each_stage_name_settings_as_the_run_does(stage: str, said: str, expected: str) -> None:
    assert named_as_in_a_run(stage, said) == expected
    assert named_as_in_a_run(stage, expected) == expected


def test_log_lines_of_a_stage_name_settings_as_the_run_does(caplog: pytest.LogCaptureFixture) -> None:
    logger, other = logging.getLogger("llama2vec.finetune.batches"), logging.getLogger("other")
    with settings_named_as_in_a_run("finetune"):
        logger.warning("contrastive.negatives is 0: %s; %d %%", "set data.split", 3)
        other.warning("contrastive.negatives")
    logger.warning("contrastive.negatives")
    assert [record.getMessage() for record in caplog.records] == [
        "finetune.contrastive.negatives is 0: set finetune.data.split; 3 %", "contrastive.negatives",
        "contrastive.negatives",
    ]  # fmt: skip
