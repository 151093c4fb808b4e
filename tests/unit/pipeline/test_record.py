"""What ``run.json`` says about a stage, and what that means for the next call."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from storing import HashEncoder, write

from llama2vec.artifact import new_path
from llama2vec.data.examples.reported import is_reported, report_path
from llama2vec.errors import OutputExistsError
from llama2vec.files import file_sha256, write_json
from llama2vec.finetune.stage import STAGE as FINETUNE
from llama2vec.manifest import digest
from llama2vec.pipeline import record
from llama2vec.pipeline.plan import Input, PlannedStage
from llama2vec.pipeline.record import Decision, RunRecord, begin_aside, decide, output_fingerprint, reusable_folders
from llama2vec.pipeline.settings import RunConfig
from llama2vec.records import Passage
from llama2vec.retrieve.index.folder import build_index
from llama2vec.retrieve.store.reader import FORMAT
from llama2vec.retrieve.store.writer import write_store

STAGE = PlannedStage("encode", "encode", "store", {"shard_size": 4}, (Input("corpus", "c.jsonl", fingerprint="1"),))
FED = PlannedStage("encode", "encode", "store", {"shard_size": 4}, (Input("model", "adapted", stage="adapt"),))


def finished(folder: Path) -> dict[str, Any]:
    write(folder)
    return {
        "state": "finished",
        "settings": {"shard_size": 4},
        "inputs": {"corpus": "1"},
        "output": output_fingerprint("encode", folder),
    }


def test_a_stage_is_run_until_it_is_finished_and_skipped_while_nothing_changes(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    assert decide(STAGE, None, {"corpus": "1"}, folder) == Decision("run", "not done yet")
    entry = finished(folder)
    assert decide(STAGE, entry, {"corpus": "1"}, folder) == Decision("skip", "unchanged")
    assert decide(STAGE, {**entry, "state": "running"}, {"corpus": "1"}, folder) == Decision("resume", "begun before")


@pytest.mark.parametrize(
    ("change", "inputs", "why"),
    [
        ({"settings": {"shard_size": 5}}, {"corpus": "1"}, "encode.shard_size: 5 there, 4 now"),
        ({}, {"corpus": "2"}, "corpus: the content differs"),
        ({"inputs": {}}, {"corpus": "1"}, "corpus: new"),
        ({"output": "another"}, {"corpus": "1"}, "store was changed or damaged since"),
    ],
)
def test_a_change_replaces_the_output_which_stays_until_then(
    tmp_path: Path, change: dict[str, Any], inputs: dict[str, str | None], why: str
) -> None:
    entry = {**finished(tmp_path / "store"), **change}
    assert decide(STAGE, entry, inputs, tmp_path / "store") == Decision("replace", why, replaces=True)


def test_a_training_goes_on_with_less_memory(tmp_path: Path) -> None:
    (tmp_path / "finetuned").mkdir()
    (tmp_path / "finetuned" / "finetune.json").touch()
    now = {"contrastive": {"temperature": 0.02, "graph_tokens": 2048}}
    stage = PlannedStage("finetune", "finetune", "finetuned", now, ())
    there = {"contrastive": {"temperature": 0.02, "graph_tokens": 8192}}
    entry = {"state": "running", "settings": there, "inputs": {}}
    assert decide(stage, entry, {}, tmp_path / "finetuned").action == "resume"
    there["contrastive"]["temperature"] = 0.05
    assert decide(stage, entry, {}, tmp_path / "finetuned").action == "replace"


def begun_training(folder: Path) -> Path:
    """Write what a training leaves that was killed before its first checkpoint."""
    plan = {"settings": {}, "format": FINETUNE.format}
    folder.mkdir()
    write_json(folder / "finetune.json", {**plan, "hash": digest(plan)})
    return folder


def test_a_corrected_training_that_was_killed_before_its_first_checkpoint_starts_over(tmp_path: Path) -> None:
    folder = begun_training(tmp_path / "finetuned")
    stage = PlannedStage("finetune", "finetune", "finetuned", {"steps": 2}, ())
    entry = {"state": "running", "settings": {"steps": 1}, "inputs": {}, "replaces": False}
    assert decide(stage, entry, {}, folder) == Decision("run", "begun before with other settings or inputs")
    checkpoint = folder / "checkpoints" / "checkpoint-1"
    checkpoint.mkdir(parents=True)
    write_json(checkpoint / "complete.json", {})
    assert decide(stage, entry, {}, folder) == Decision("replace", "finetune.steps: 1 there, 2 now", replaces=True)


def test_a_corrected_training_leaves_the_finished_one_that_it_was_to_replace(tmp_path: Path) -> None:
    folder = begun_training(tmp_path / "finetuned")
    write_json(folder / "manifest.json", {})
    begun_training(new_path(folder))
    stage = PlannedStage("finetune", "finetune", "finetuned", {"steps": 2}, ())
    entry = {"state": "running", "settings": {"steps": 1}, "inputs": {}, "replaces": True}
    assert decide(stage, entry, {}, folder).action == "replace"


def test_a_corrected_encoding_that_was_killed_before_its_first_shard_starts_over(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    write(folder)
    entry = {"state": "running", "settings": {"shard_size": 5}, "inputs": {"corpus": "1"}}
    assert decide(STAGE, entry, {"corpus": "1"}, folder).action == "replace"
    for file in folder.iterdir():
        file.unlink()
    write_json(folder / "writing.json", {"format": FORMAT["format"]})
    assert decide(STAGE, entry, {"corpus": "1"}, folder).action == "run"


def test_a_replacement_that_was_interrupted_still_replaces(tmp_path: Path) -> None:
    entry = {**finished(tmp_path / "store"), "state": "running", "replaces": True}
    assert decide(STAGE, entry, {"corpus": "1"}, tmp_path / "store").replaces


@pytest.mark.parametrize("replaces", [False, True])
@pytest.mark.parametrize(
    ("plan_format", "action"), [({}, "replace"), ({"format": 5}, "replace"), ({"format": 6}, "resume")]
)
def test_a_training_that_a_development_version_began_is_replaced_and_not_resumed(
    plan_format: dict[str, int], action: str, replaces: bool, tmp_path: Path
) -> None:
    folder = tmp_path / "finetuned"
    stage = PlannedStage("finetune", "finetune", "finetuned", {"steps": 2}, ())
    entry = {"state": "running", "settings": {"steps": 2}, "inputs": {}, "replaces": replaces}
    begun, plan = new_path(folder) if replaces else folder, {"settings": {}, **plan_format}
    for one in {folder, begun}:
        one.mkdir()
        write_json(one / "config.json", {})
    write_json(begun / "finetune.json", {**plan, "hash": digest(plan)})
    found = decide(stage, entry, {}, folder)
    assert found.action == action
    assert found.replaces == (replaces or action == "replace")
    assert (found.why == "a development version of llama2vec began it") == (action == "replace")


def test_a_stage_waits_for_what_it_reads(tmp_path: Path) -> None:
    entry = {**finished(tmp_path / "store"), "inputs": {"model": "1"}}
    assert decide(FED, entry, {"model": None}, tmp_path / "store") == Decision("follow", "reads what adapt makes")


def test_a_folder_that_the_run_has_not_made_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "store")
    with pytest.raises(OutputExistsError, match="this run has not made it"):
        decide(STAGE, None, {"corpus": "1"}, tmp_path / "store")


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = RunRecord.open(tmp_path / "run")
    assert record.stages == {}
    config = RunConfig.model_construct()
    record.begin(STAGE, {"corpus": "1"}, config, replaces=True)
    assert RunRecord.open(tmp_path / "run").stages["encode"]["state"] == "running"
    record.finish(STAGE, "abc", 1.25, config)
    entry = RunRecord.open(tmp_path / "run").stages["encode"]
    assert (entry["state"], entry["output"], entry["seconds"], entry["replaces"]) == ("finished", "abc", 1.2, True)


@pytest.mark.parametrize("content", ["{}", "[]", "", '{"format": "other"}', '{"format": "llama2vec-run", "stages": 5}'])
def test_another_folder_is_not_a_run(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(OutputExistsError, match="does not hold a run of llama2vec"):
        RunRecord.open(tmp_path)
    assert (tmp_path / "run.json").read_text() == content


def test_a_damaged_output_has_no_fingerprint(tmp_path: Path) -> None:
    write(tmp_path / "store")
    assert output_fingerprint("encode", tmp_path / "store") is not None
    (tmp_path / "store" / "shard-00000.vectors.npy").write_bytes(b"short")
    assert output_fingerprint("encode", tmp_path / "store") is None
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "llama2vec.json").write_text(json.dumps([]))
    assert output_fingerprint("adapt", tmp_path / "model") is None


@pytest.mark.parametrize(("gone", "language"), [("bm25", "en"), ("fields.sqlite", "en"), ("", "de")])
def test_an_index_without_a_part_that_its_settings_ask_for_has_no_fingerprint(
    tmp_path: Path, gone: str, language: str
) -> None:
    index, passages = tmp_path / "index", [Passage("1", "The river is wide.", fields={"year": 1900})]
    write_store(lambda: passages, HashEncoder(), tmp_path / "store", source={})
    build_index(tmp_path / "store", index, kind="exact", bm25="en")
    assert output_fingerprint("index", index, {"bm25": True, "language": "en"}) is not None
    if gone:
        (shutil.rmtree if (index / gone).is_dir() else Path.unlink)(index / gone)
    assert output_fingerprint("index", index, {"bm25": True, "language": language}) is None


def test_words_that_somebody_added_to_an_index_leave_its_fingerprint(tmp_path: Path) -> None:
    index, settings = tmp_path / "index", {"bm25": False, "language": "en"}
    write(tmp_path / "store")
    build_index(tmp_path / "store", index, kind="exact")
    made = output_fingerprint("index", index, settings)
    build_index(tmp_path / "store", index, bm25="en")
    assert output_fingerprint("index", index, settings) == made is not None


def test_a_renamed_file_and_one_that_an_earlier_version_named_are_unchanged(tmp_path: Path) -> None:
    inputs = (Input("pairs.sources.0", "b.jsonl", fingerprint="new", earlier="named"),)
    stage = PlannedStage("pairs", "pairs", "pairs", {}, inputs)
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs" / "01-a.jsonl").write_text("x", encoding="utf-8")
    output = output_fingerprint("pairs", tmp_path / "pairs")

    def why(**there: str) -> str:
        entry = {"state": "finished", "settings": {}, "inputs": there, "output": output}
        return decide(stage, entry, stage.input_fingerprints({}), tmp_path / "pairs").why

    assert why(**{"pairs.sources.0": "new"}) == why(**{"pairs.sources.0": "named"}) == "unchanged"
    assert why(**{"pairs.sources.0": "other"}) == "pairs.sources.0: the content differs"
    mining = PlannedStage("mine", "mine", "pairs", {}, (Input("corpus of 01-b.jsonl", "c", fingerprint="1"),))
    for name, expected in (
        ("corpus of 01-a.jsonl", "unchanged"),
        ("corpus of 02-a.jsonl", "corpus of 01-b.jsonl: new"),
    ):
        entry = {"state": "finished", "settings": {}, "inputs": {name: "1"}, "output": output}
        assert decide(mining, entry, mining.input_fingerprints({}), tmp_path / "pairs").why == expected


@pytest.mark.parametrize(
    ("kind", "settings", "state", "replaces", "expected"),
    [
        ("pairs", {"seed": 1}, "finished", False, ["new", "folder"]),
        ("mine", {"seed": 0}, "finished", False, ["new", "folder"]),
        ("mine", {"seed": 0}, "running", True, ["new"]),
        ("mine", {"seed": 1}, "finished", False, []),
        ("index", {"seed": 0}, "finished", False, []),
    ],
)
def test_files_are_taken_over_where_their_reports_tell_all_that_made_them(
    kind: str, settings: dict[str, int], state: str, replaces: bool, expected: list[str], tmp_path: Path
) -> None:
    stage = PlannedStage(kind, kind, "folder", settings, ())
    entry = {"state": state, "settings": {"seed": 0}, "replaces": replaces}
    places = {"new": tmp_path / ".new-folder", "folder": tmp_path / "folder"}
    assert reusable_folders(stage, entry, tmp_path / "folder") == [places[name] for name in expected]
    assert reusable_folders(PlannedStage("mine", "mine", "folder", {}, ()), None, tmp_path / "folder") == []


def test_a_new_start_takes_over_whole_files_with_their_reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, new = tmp_path / "pairs", tmp_path / ".new-pairs"
    for place, content in ((folder, "old"), (new, "new")):
        place.mkdir()
        for name in ("a.jsonl", "b.jsonl"):
            (place / name).write_text(content, encoding="utf-8")

    def report(path: Path) -> None:
        write_json(report_path(path), {"stage": "mine", "output": {"sha256": file_sha256(path)}})

    report(folder / "a.jsonl")
    report(folder / "b.jsonl")
    report(new / "b.jsonl")
    link, linked = record.link_tree, list[str]()

    def killed(source: Path, destination: Path) -> None:
        if linked:
            raise KeyboardInterrupt
        linked.append(source.name)
        link(source, destination)

    with monkeypatch.context() as patch:
        patch.setattr(record, "link_tree", killed)
        with pytest.raises(KeyboardInterrupt):
            begin_aside(folder, [new, folder])
    assert linked == ["a.jsonl.report.json"]
    begin_aside(folder, [new, folder])
    assert {path.name: path.read_text() for path in new.glob("*.jsonl")} == {"a.jsonl": "old", "b.jsonl": "new"}
    assert all(is_reported(new / name) for name in ("a.jsonl", "b.jsonl"))
    begin_aside(folder, [new])
    assert sorted(path.name for path in new.glob("*.jsonl")) == ["a.jsonl", "b.jsonl"]
    begin_aside(folder)
    assert not list(new.iterdir())


def test_a_new_start_keeps_questions_and_vectors_and_nothing_else(tmp_path: Path) -> None:
    folder, new = tmp_path / "pairs", tmp_path / ".new-pairs"
    for file in ("a.jsonl", "a.jsonl.questions-1", "a.jsonl.store-1/shard", ".unfinished/corpus-1/shard"):
        for place, content in ((folder, "old"), (new, "new")):
            (place / file).parent.mkdir(parents=True, exist_ok=True)
            (place / file).write_text(content, encoding="utf-8")
    (folder / "a.jsonl.store-2").mkdir()
    (folder / "a.jsonl.store-2" / "shard").write_text("old", encoding="utf-8")
    (new / ".half").mkdir()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    begin_aside(folder)
    kept = {path.relative_to(new).as_posix(): path.read_text() for path in new.rglob("*") if path.is_file()}
    assert kept == {
        "a.jsonl.questions-1": "new", "a.jsonl.store-1/shard": "new", "a.jsonl.store-2/shard": "old",
        ".unfinished/corpus-1/shard": "new",
    }  # fmt: skip
    assert not (new / ".half").exists()
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_rounds_do_not_mix_with_one_whose_held_out_queries_an_earlier_version_drew(tmp_path: Path) -> None:
    stage = PlannedStage("finetune", "finetune", "finetuned", {}, (Input("pairs", "pairs", "pairs", is_new=True),))
    folder = tmp_path / "finetuned"
    folder.mkdir()
    entry = {"state": "finished", "settings": {}, "inputs": {}, "output": None}
    for version, action in ((5, "replace"), (6, "skip")):
        plan = {"settings": {}, "format": version}
        write_json(folder / "finetune.json", {**plan, "hash": digest(plan)})
        found = decide(stage, entry, {"pairs": "1"}, folder, shares_draw=True)
        assert found.action == action
        assert ("held out other queries" in found.why) == (action == "replace")
        # Alone, a round stays as it is, also where its record does not name the pairs.
        assert decide(stage, entry, {"pairs": "1"}, folder).action == "skip"
    changed = decide(stage, {**entry, "inputs": {"pairs": "0"}}, {"pairs": "1"}, folder)
    assert changed.why == "pairs: the content differs"
