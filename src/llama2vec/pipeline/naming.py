"""Settings under the names that ``run --set`` takes: ``adapt.optimizer.steps``, where ``adapt`` has its own section."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache

from llama2vec.adapt.settings import AdaptConfig
from llama2vec.config import EncoderSettings, ModelSettings, PromptSettings, Settings
from llama2vec.data.settings import CorpusPairSettings, ReadingSettings
from llama2vec.errors import Llama2VecError
from llama2vec.finetune.settings import FinetuneConfig
from llama2vec.generate.settings import GenerateSettings
from llama2vec.score.settings import EvaluateSettings

SHARED_SECTIONS: Mapping[str, type[Settings]] = {
    "model": ModelSettings, "prompts": PromptSettings, "encoder": EncoderSettings, "reading": ReadingSettings,
}  # fmt: skip
"""Sections that a run has as a whole, under the same names; those of a training may have further settings."""
_TRAININGS: Mapping[str, type[Settings]] = {"adapt": AdaptConfig, "finetune": FinetuneConfig}


def named_as_in_a_run(stage: str, text: str) -> str:
    """Return a text of a stage with the names that its settings have in a run."""
    for pattern, name in _renamings(stage):
        text = pattern.sub(name, text)
    return text


@cache
def _renamings(stage: str) -> tuple[tuple[re.Pattern[str], str], ...]:
    """Return patterns of what a run calls otherwise in the messages of a stage, with what takes its place."""
    if stage in _TRAININGS:
        own = [
            f"{section}.{name}"
            for section, field in _TRAININGS[stage].model_fields.items()
            for name in getattr(field.annotation, "model_fields", ())
            if section not in SHARED_SECTIONS or name not in SHARED_SECTIONS[section].model_fields
        ]
        return _before(own, f"{stage}."), (re.compile(r"\bmine --teacher\b"), "mine.teacher")
    if stage == "pairs":
        # Names of several words stand for themselves in a message.
        kinds = CorpusPairSettings, GenerateSettings
        made, written = ({name for name in kind.model_fields if "_" in name} for kind in kinds)
        asked = re.compile(r"(?<![\w./-])generate(?=\.[a-z_]+\b)"), "pairs.generated"
        return _before(made, "pairs.from_corpus."), _before(written - made, "pairs.generated."), asked
    limits = _before(["query_max_tokens", "passage_max_tokens"], "encoder.")
    if stage == "evaluate":
        # A name alone may be a plain word; before a value, it is the setting.
        return limits, _before([f"{name}=" for name in EvaluateSettings.model_fields], "evaluate.", end="")
    return (limits,) if stage == "mine" else ()


def _before(names: Iterable[str], prefix: str, *, end: str = r"\b") -> tuple[re.Pattern[str], str]:
    """Return the renaming that puts a prefix before names, unless they are parts of longer ones or of paths."""
    return re.compile(rf"(?<![\w./-])(?=(?:{'|'.join(map(re.escape, sorted(names)))}){end})"), prefix


@contextmanager
def settings_named_as_in_a_run(stage: str) -> Iterator[None]:
    """Let the errors and log lines of a stage name settings as the run does."""

    def renamed(record: logging.LogRecord) -> bool:
        if record.name.partition(".")[0] == __name__.partition(".")[0]:
            record.msg, record.args = named_as_in_a_run(stage, record.getMessage()), ()
        return True

    # A filter of a logger sees the records of this logger alone, and those of handlers see all.
    handlers = {*logging.getLogger().handlers, *logging.getLogger(__name__.partition(".")[0]).handlers}
    for handler in handlers:
        handler.addFilter(renamed)
    try:
        yield
    except Llama2VecError as error:
        if error.args:
            error.args = (named_as_in_a_run(stage, str(error.args[0])), *error.args[1:])
        raise
    finally:
        for handler in handlers:
            handler.removeFilter(renamed)
