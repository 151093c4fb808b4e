"""``run.json``: which stages a run has finished, and what that means for the next call."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llama2vec.adapt.stage import STAGE as ADAPT
from llama2vec.artifact import (
    Found,
    Kind,
    bring_back,
    find,
    is_free,
    new_path,
    read_object,
    replace_output,
)
from llama2vec.data.examples.reported import is_reported, report_path
from llama2vec.errors import Llama2VecError, OutputExistsError
from llama2vec.files import FileKind, file_sha256, finish_swap, link_tree, remove, write_json
from llama2vec.finetune.stage import STAGE as FINETUNE
from llama2vec.kept import KEPT_QUESTIONS, KEPT_SCORES, KEPT_STORE
from llama2vec.manifest import (
    RUN_FORMAT,
    RUN_RECORD,
    SEAL,
    canonical_json,
    code_version,
    digest,
    first_difference,
    machine,
    versions,
)
from llama2vec.model.source import CONTRACT_FILE, ModelSource
from llama2vec.pipeline.plan import PlannedStage, RunPlan
from llama2vec.pipeline.settings import RunConfig
from llama2vec.retrieve.index.folder import INDEX
from llama2vec.retrieve.store.reader import STORE_FILE, VectorStore
from llama2vec.retrieve.store.writer import STORE
from llama2vec.score.results import QUERY_VALUES
from llama2vec.training.output import deciding

REPORT, PASSAGES_FILE, READING_FILE = "report.md", "corpus.jsonl", "reading.txt"

Action = Literal["skip", "run", "resume", "replace", "follow"]
"""``follow``: it depends on what an earlier stage will make; unchanged where that comes out the same."""


def _read_run(folder: Path) -> Found | None:
    content = read_object(folder / RUN_RECORD)
    stages = content.get("stages") if content and content.get("format") == RUN_FORMAT else None
    return Found(stages, finished=False) if isinstance(stages, dict) else None


RUN = Kind("a run", _read_run)
_TRAININGS = {stage.name: stage for stage in (ADAPT, FINETUNE)}
_RESUMABLE = {**{name: stage.kind for name, stage in _TRAININGS.items()}, "encode": STORE}
"""How the stages that resume in their own folder recognize it."""

REPORT_FILE = FileKind("the report of a run", rb"# Scores\n")
_OWNERS = (".lock-*", ".new-*")
_REPORTED = ("*.jsonl", str(report_path("*.jsonl")))

STAGE_KINDS = {
    kind: Kind(f"the output of {kind}", lambda folder: None, entries=entries)
    for kind, entries in {
        "read": (PASSAGES_FILE, READING_FILE),
        "pairs": (*_REPORTED, f"*.jsonl{KEPT_QUESTIONS}*", *_OWNERS),
        "mine": (*_REPORTED, f"*.jsonl{KEPT_STORE}*/**", f"*.jsonl{KEPT_SCORES}*", *_OWNERS),
        "index": INDEX.entries,
        "evaluate": (REPORT, "*/*.json", "*/*.trec", f"*/*.{QUERY_VALUES}", "*/.lock-*", ".unfinished/**",
                     "*/.unfinished/**", *_OWNERS),
    }.items()
}  # fmt: skip
"""What the stages leave whose folders the run itself replaces."""
_KEPT = (*(f"*.jsonl{mark}*" for mark in (KEPT_QUESTIONS, KEPT_STORE, KEPT_SCORES)), ".unfinished")
"""Questions, and vectors that an unfinished stage keeps; their names tell what made them, so any start may use them."""


_BEGUN_OTHERWISE = "begun before with other settings or inputs"
_HELD_OUT_OTHERS = "an earlier version of llama2vec held out other queries in each round"


class RunRecord:
    """The state of a run's folder by stage name; every change is on the disk before the next step."""

    def __init__(self, folder: Path, stages: dict[str, dict[str, Any]]) -> None:
        self.folder, self.stages = folder, stages

    @classmethod
    def open(cls, folder: Path) -> RunRecord:
        """Read a run's folder; raise an OutputExistsError where it holds something else."""
        found = find(folder, RUN)
        return cls(folder, dict(found.plan) if found else {})

    def begin(
        self, stage: PlannedStage, inputs: Mapping[str, str | None], config: RunConfig, *, replaces: bool = False
    ) -> None:
        """Write down that a stage has begun, before it writes anything, and whether it replaces an older output."""
        settings = json.loads(canonical_json(stage.settings))
        self.stages[stage.name] = {
            "state": "running",
            "folder": stage.folder,
            "settings": settings,
            "settings_hash": digest(settings),
            "inputs": dict(inputs),
            "reads": {found.name: found.where for found in stage.inputs},
            "replaces": replaces,
        }
        if replaces and stage.kind not in STAGE_KINDS:  # These replace it themselves: has_replaced() tells when
            self.stages[stage.name]["before"] = output_fingerprint(stage.kind, self.folder / stage.folder)
        self._write(config)

    def finish(self, stage: PlannedStage, output: str | None, seconds: float, config: RunConfig) -> None:
        """Write down that a stage is finished, and what it made."""
        self.stages[stage.name] |= {"state": "finished", "output": output, "seconds": round(seconds, 1)}
        for passing in ("made", "before"):
            self.stages[stage.name].pop(passing, None)
        self._write(config)

    def has_replaced(self, stage: PlannedStage) -> bool:
        """Whether a stage that replaces its own older output has done so, and was killed before :meth:`finish`."""
        entry = self.stages[stage.name]
        made = output_fingerprint(stage.kind, self.folder / stage.folder) if "before" in entry else None
        # Without a whole output before, what is there may be one that the user has put back.
        return made is not None and entry["before"] not in (None, made)

    def put_in_place(self, plan: RunPlan, stage: PlannedStage) -> None:
        """Let what a stage has made in ``.new-FOLDER`` take the place of its older output."""
        folder = plan.folder(stage)
        made = output_fingerprint(stage.kind, new_path(folder), stage.settings)
        if made is not None:
            for kept in _kept(new_path(folder)):
                if KEPT_QUESTIONS not in kept.name:  # These serve other filters later
                    remove(kept)
            # A kill from here on is noticed by settle().
            self.stages[stage.name]["made"] = made
            self._write(plan.config)
            replace_output(folder, new_path(folder), STAGE_KINDS[stage.kind])

    def settle(self, plan: RunPlan, stage: PlannedStage) -> None:
        """Finish what a kill has cut off in :meth:`put_in_place`."""
        entry, folder = self.stages.get(stage.name, {}), plan.folder(stage)
        if stage.kind not in STAGE_KINDS or entry.get("made") is None:
            return
        finish_swap(folder)
        if output_fingerprint(stage.kind, folder, entry["settings"]) != entry["made"]:
            if output_fingerprint(stage.kind, new_path(folder), entry["settings"]) != entry["made"]:
                return
            replace_output(folder, new_path(folder), STAGE_KINDS[stage.kind])
        remove(new_path(folder))
        self.finish(stage, entry["made"], 0.0, plan.config)

    def _write(self, config: RunConfig) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {
            "format": RUN_FORMAT, "recipe": config.model_dump(), "stages": self.stages,
            "versions": versions(), "code": code_version(), "machine": machine(),
        }  # fmt: skip
        write_json(self.folder / RUN_RECORD, content)


def begin_aside(folder: Path, reusable: Collection[Path] = ()) -> None:
    """Empty ``.new-FOLDER`` but for what earlier starts have kept, there or in the folder itself.

    Of those of the two that are ``reusable``, files with a report stay as well: where their plan is still the same,
    they are not made again.
    """
    new = new_path(folder)
    there = [*_kept(new), *(_reported(new) if new in reusable else ())]
    for path in [*new.iterdir()] if new.is_dir() and not new.is_symlink() else [new]:
        if path not in there:
            remove(path)
    for path in [*_kept(folder), *(_reported(folder) if folder in reusable else ())]:
        if not os.path.lexists(new / path.name):
            new.mkdir(exist_ok=True)
            half = new / ".half"  # A kill in between must not leave half a store under the name of a whole one
            link_tree(path, half)
            half.rename(new / path.name)


def _kept(folder: Path) -> list[Path]:
    return [path for pattern in _KEPT for path in folder.glob(pattern)]


def _reported(folder: Path) -> list[Path]:
    """Return the files that have reports, each after its report: a kill in between must not leave it without."""
    files = sorted(path for path in folder.glob("*.jsonl") if not path.name.startswith(".") and is_reported(path))
    return [found for path in files for found in (report_path(path), path)]


def reusable_folders(stage: PlannedStage, entry: Mapping[str, Any] | None, folder: Path) -> list[Path]:
    """Return the folders whose files a start of a stage may take over, where the plan of a file is the same.

    What the plan of a mined file leaves out, such as the number format of the model, is in the settings of the stage.
    """
    new = new_path(folder)
    if stage.kind == "pairs":
        return [new, folder]
    if stage.kind != "mine" or not entry or entry["settings"] != json.loads(canonical_json(stage.settings)):
        return []
    # A start that replaces has taken over what it may, and an older output may come from other settings.
    return [new] if entry["state"] == "running" and entry.get("replaces") else [new, folder]


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a stage."""

    action: Action  # What is done
    why: str  # In a few words
    replaces: bool = False  # An older output stays until the new one is whole


def decide(
    stage: PlannedStage,
    entry: Mapping[str, Any] | None,
    inputs: Mapping[str, str | None],
    folder: Path,
    *,
    shares_draw: bool = False,
) -> Decision:
    """Decide about one stage from its entry in ``run.json`` and its inputs' fingerprints (None = still to be made).

    ``shares_draw`` is what :func:`shares_held_out` says; what an earlier version has trained then counts as made
    otherwise.

    Raises:
        OutputExistsError: The folder exists and does not come from this run.
    """
    bring_back(folder)
    there = not is_free(folder.resolve())
    if entry is None and there:
        raise OutputExistsError(f"{folder}: exists, but this run has not made it; move it away")
    if entry is None or not there:
        return Decision("run", "its output is gone" if entry and entry["state"] != "running" else "not done yet")
    changed = _difference(stage, entry, inputs)
    if changed and entry["state"] == "running" and stage.kind in ("read", "pairs", "index"):
        # These resume nothing, so a start that failed must not block the corrected command.
        return Decision("run", _BEGUN_OTHERWISE, replaces=True)
    if changed and entry["state"] == "running" and _came_nowhere(stage, folder):
        return Decision("run", _BEGUN_OTHERWISE)
    if changed:
        return Decision("replace", changed, replaces=True)
    pending = [found.stage for found in stage.inputs if found.stage and inputs[found.name] is None]
    if pending:
        return Decision("follow", f"reads what {pending[-1]} makes")
    if shares_draw and entry["state"] != "running" and _is_outdated(stage, folder):
        return Decision("replace", _HELD_OUT_OTHERS, replaces=True)
    if entry["state"] == "running":
        begun = new_path(folder) if entry.get("replaces") else folder
        if _is_outdated(stage, begun):
            return Decision("replace", "a development version of llama2vec began it", replaces=True)
        return Decision("resume", "begun before", replaces=entry.get("replaces", False))
    if output_fingerprint(stage.kind, folder, entry["settings"]) != entry["output"]:
        return Decision("replace", f"{stage.folder} was changed or damaged since", replaces=True)
    return Decision("skip", "unchanged")


def _is_outdated(stage: PlannedStage, folder: Path) -> bool:
    """Whether a folder holds a training of an earlier version, which would continue otherwise."""
    found = _TRAININGS[stage.kind].kind.read(folder) if stage.kind in _TRAININGS else None
    return found is not None and found.is_outdated


def shares_held_out(plan: RunPlan, stage: PlannedStage) -> bool:
    """Whether a stage fine-tunes with the held-out queries of other rounds."""
    rounds = [one for one in plan.stages if one.kind == "finetune" and one.find_input("pairs")]
    return len(rounds) > 1 and stage in rounds


def _came_nowhere(stage: PlannedStage, folder: Path) -> bool:
    """Whether a folder holds a start of this stage that left nothing to resume; the stage alone would replace it."""
    found = _RESUMABLE[stage.kind].read(folder) if stage.kind in _RESUMABLE else None
    return found is not None and not (found.finished or found.worth_keeping or found.is_busy)


def decide_all(plan: RunPlan, record: RunRecord, selected: Iterable[PlannedStage]) -> dict[str, Decision]:
    """Decide about the selected stages before any of them runs; earlier ones must be finished where they are read."""
    selected = list(selected)
    made: dict[str, str | None] = {}
    decisions: dict[str, Decision] = {}
    for stage in plan.stages:
        if stage in selected:
            entry = record.stages.get(stage.name)
            inputs, shares = stage.input_fingerprints(made), shares_held_out(plan, stage)
            decision = decide(stage, entry, inputs, plan.folder(stage), shares_draw=shares)
            decisions[stage.name] = decision
            made[stage.name] = entry["output"] if entry and decision.action == "skip" else None
        elif plan.stages.index(stage) < plan.stages.index(selected[0]):
            made[stage.name] = _finished_output(plan, record, stage, selected)
    return decisions


def _finished_output(plan: RunPlan, record: RunRecord, stage: PlannedStage, selected: list[PlannedStage]) -> str | None:
    """Return the fingerprint of what a stage before the selected ones has made; None where none of them reads it."""
    reader = next((one for one in selected if any(found.stage == stage.name for found in one.inputs)), None)
    if reader is None:
        return None
    entry = record.stages.get(stage.name, {})
    found = output_fingerprint(stage.kind, plan.folder(stage)) if entry.get("state") == "finished" else None
    if found is None or found != entry["output"]:
        raise OutputExistsError(
            f"{reader.name} reads {stage.folder}, which {stage.name} has not finished in {plan.output}; "
            f"run from {stage.name} on (--from {stage.name})"
        )
    trains = any(one.kind == "finetune" for one in selected)
    if trains and shares_held_out(plan, stage) and _is_outdated(stage, plan.folder(stage)):
        raise OutputExistsError(
            f"{plan.folder(stage)}: {_HELD_OUT_OTHERS}; redo the rounds (--from {stage.name} --overwrite)"
        )
    return found


def _difference(stage: PlannedStage, entry: Mapping[str, Any], inputs: Mapping[str, str | None]) -> str:
    """Return which setting or input has changed, "" where all are the same or still open."""
    settings = entry["settings"], json.loads(canonical_json(stage.settings))
    if stage.kind in _TRAININGS:
        settings = deciding(settings[0]), deciding(settings[1])
    differs = first_difference(*settings)
    if differs:
        name, old, new = differs
        return f"{stage.kind}.{name}: {old!r} there, {new!r} now"
    earlier = {found.name: found.earlier for found in stage.inputs}
    added = {found.name for found in stage.inputs if found.is_new}
    there = {_role(name): value for name, value in entry["inputs"].items()}
    now = {_role(name): name for name in inputs}
    for role in sorted({*there, *now}):
        name = now.get(role, role)
        old, new = there.get(role), inputs.get(name)
        is_same = old == new or (old and old == earlier.get(name)) or (old is None and name in added)
        if (name in inputs and new is None) or is_same:
            continue
        what = "new" if old is None else "no longer read" if new is None else "the content differs"
        return f"{name}: {what}"
    return ""


def _role(name: str) -> str:
    """Return an input's name without that of a labeled source, whose number says which one it is.

    >>> _role("corpus of 01-questions.jsonl"), _role("corpus of corpus.jsonl")
    ('corpus of 01', 'corpus of corpus.jsonl')
    """
    return re.sub(r"^(corpus of \d+)-.*", r"\1", name)


def output_fingerprint(kind: str, folder: Path, settings: Mapping[str, Any] | None = None) -> str | None:
    """Identify what a stage has made, by its content; None where it is not whole or lacks what its settings ask for."""
    try:
        if kind in ("adapt", "finetune"):
            return _model_output(folder)
        if kind == "encode":
            VectorStore.open(folder)
            return file_sha256(folder / STORE_FILE)
        if kind == "index" and not _is_whole_index(folder, settings or {}):
            return None
        if kind == "index":
            return digest([file_sha256(file) for file in sorted(folder.glob("index.*"))])
        if kind == "evaluate":
            return _report_output(folder)
        files = sorted(path for path in folder.glob("*.jsonl") if not path.name.startswith("."))
        return digest([[path.name, file_sha256(path)] for path in files]) if files else None
    except (OSError, ValueError, KeyError, TypeError, Llama2VecError):
        return None


def _is_whole_index(folder: Path, settings: Mapping[str, Any]) -> bool:
    """Whether an index has all its parts: without its BM25, a hybrid search would go by the vectors alone."""
    found = INDEX.read(folder)
    lacks_words = found and settings.get("bm25") and found.plan["settings"]["bm25"] != settings["language"]
    return found is not None and found.finished and not lacks_words


def _model_output(folder: Path) -> str | None:
    contract = json.loads((folder / CONTRACT_FILE).read_text(encoding="utf-8"))
    if ModelSource(str(folder), str(folder)).fingerprint() != contract["weights"]:
        return None
    beside = [folder / "config.json", *sorted(folder.glob("tokenizer*.json"))]
    return digest([contract["hash"], *(file_sha256(file) for file in beside)])


def _report_output(folder: Path) -> str | None:
    if not (folder / REPORT).is_file():
        return None
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    found = []
    for path in files:
        # How long scoring took, and a hash over that, are not part of what it found.
        of_the_run = {"seconds": 0, SEAL: ""}
        scores = {**json.loads(path.read_bytes()), **of_the_run} if path.suffix == ".json" else None
        found.append([path.relative_to(folder).as_posix(), digest(scores) if scores else file_sha256(path)])
    return digest(found)
