"""A recipe from what a training or a whole run has written down of its settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llama2vec.adapt.settings import AdaptConfig
from llama2vec.artifact import read_object
from llama2vec.config import EncoderSettings, ModelSettings, PromptSettings, Settings, section_of
from llama2vec.errors import ConfigError
from llama2vec.finetune.settings import FinetuneConfig
from llama2vec.manifest import MANIFEST_FILE, RUN_RECORD, sealed
from llama2vec.pipeline.settings import RunConfig
from llama2vec.toml_values import toml_value
from llama2vec.training.output import PLAN_SEAL

_SCHEMAS: dict[str, type[Settings]] = {"adapt": AdaptConfig, "finetune": FinetuneConfig, "run": RunConfig}


@dataclass(frozen=True, slots=True)
class Recipe:
    """The settings of a training or run."""

    verb: str  # ``adapt``, ``finetune`` or ``run``
    config: Settings
    notes: tuple[str, ...] = ()  # What the settings cannot say
    omitted: frozenset[str] = frozenset()  # Keys that are left out

    def toml(self, source: str) -> str:
        """Return a TOML recipe with every setting; a comment gives the default where it differs."""
        lines = [f"# llama2vec {self.verb} THIS_FILE: the settings of {source}", *(f"# {note}" for note in self.notes)]
        return "\n".join([*lines, *_table(self.config, type(self.config), "", self.omitted)]) + "\n"


def recipe_of(folder: str | Path) -> Recipe:
    """Read the settings of a training or a run, finished or not, out of its folder.

    Raises:
        ConfigError: The folder holds neither, its record was changed, or this version does not know a setting.
    """
    folder = Path(folder)
    verb, settings, inputs = _found(folder)
    notes = []
    text = settings.get("text")
    if isinstance(text, dict) and str(text.get("stop_words", "")).startswith("sha256:"):
        notes.append(f"text.stop_words was a file with {text['stop_words']}; give its path, or the default counts")
        settings = {**settings, "text": {name: value for name, value in text.items() if name != "stop_words"}}
    if verb != "run" and not inputs:
        notes.append("the texts came from Python; name them")
    omitted = _shared(settings) if verb == "run" else frozenset()
    try:
        return Recipe(verb, _SCHEMAS[verb].parsed(_without(settings, omitted)), tuple(notes), omitted)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{folder}: {where}: {first['msg']}; it comes from another version of llama2vec") from None


def _shared(run: Mapping[str, Any]) -> frozenset[str]:
    """Return the keys that a run's recipe leaves to other sections.

    These are shared sections at their defaults, which every stage repeats in full, and what fine-tuning takes over from
    the adaptation.
    """
    keys = set()
    for section, schema in (("model", ModelSettings), ("prompts", PromptSettings), ("encoder", EncoderSettings)):
        default = schema().model_dump(mode="json")
        keys |= {f"{section}.{name}" for name, value in run.get(section, {}).items() if value == default.get(name)}
    adapt, finetune = run.get("adapt"), run.get("finetune")
    if adapt and finetune:
        before, after = adapt.get("encoder", {}), finetune.get("encoder", {})
        pairing = ("query_prompt", "passage_prompt")
        taken = (name for name, value in after.items() if name not in pairing and value != before.get(name))
        keys |= {f"finetune.encoder.{name}" for name in taken}
        keys |= {"finetune.prompts"} if finetune.get("prompts") != adapt.get("prompts") else set()
    # The index decides the language of both; a run wrote down the default where it was not set.
    keys |= {"evaluate.language"} if run.get("evaluate") and run.get("index") else set()
    return frozenset(keys)


def _without(settings: Mapping[str, Any], keys: frozenset[str], path: str = "") -> dict[str, Any]:
    return {
        name: _without(value, keys, f"{path}{name}.") if isinstance(value, dict) else value
        for name, value in settings.items()
        if f"{path}{name}" not in keys
    }


def _found(folder: Path) -> tuple[str, dict[str, Any], bool]:
    """Return the verb, its settings, and whether they name what was read."""
    run = read_object(folder / RUN_RECORD)
    if run and isinstance(run.get("recipe"), dict):
        return "run", run["recipe"], True
    for verb, key in (("adapt", "corpus"), ("finetune", "examples")):
        plan = read_object(folder / f"{verb}.json")
        if plan is None:
            manifest = read_object(folder / MANIFEST_FILE) or {}
            plan = manifest if manifest.get("stage") == verb else None
        elif plan != sealed(plan, PLAN_SEAL):
            raise ConfigError(f"{folder / verb}.json was changed after it was written; restore it")
        settings = (plan or {}).get("settings")
        if isinstance(settings, dict):
            named = {"corpus": ("text", "corpus"), "examples": ("data", "sources")}[key]
            return verb, settings, bool(settings.get(named[0], {}).get(named[1]))
    if seeds := sorted(folder.glob("seed-*")):
        raise ConfigError(f"{folder}: holds a training for each seed; give one of them, such as {seeds[0]}")
    raise ConfigError(f"{folder}: holds no adapt.json, finetune.json or run.json; give the folder of a training or run")


def _table(
    settings: Settings, schema: type[Settings], path: str, omitted: frozenset[str] = frozenset()
) -> Iterator[str]:
    """Yield the lines of a section: its values, then its own sections, without what is omitted."""
    sections: list[tuple[str, Settings, type[Settings]]] = []
    lists: list[tuple[str, list[Settings]]] = []
    values: list[str] = []
    for name, field in schema.model_fields.items():
        value, default = getattr(settings, name), field.get_default(call_default_factory=True)
        if f"{path}.{name}".lstrip(".") in omitted:
            continue
        if isinstance(value, Settings):
            sections.append((name, value, section_of(field.annotation) or type(value)))
        elif isinstance(value, list) and value and isinstance(value[0], Settings):
            lists.append((name, value))
        elif value is not None:
            differs = "" if value == default or field.is_required() else f"  # default: {toml_value(default)}"
            values.append(f"{name} = {toml_value(value)}{differs}")
    if values and path:
        yield f"\n[{path}]"
    yield from values
    for name, value, kind in sections:
        yield from _table(value, kind, f"{path}.{name}".lstrip("."), omitted)
    for name, members in lists:
        for member in members:
            yield f"\n[[{f'{path}.{name}'.lstrip('.')}]]"
            yield from (line for line in _table(member, type(member), "") if line)
