"""Tests for the one protocol of outputs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llama2vec import files
from llama2vec.artifact import (
    Found,
    Kind,
    Work,
    bring_back,
    claim,
    discard,
    find,
    folder_kind,
    new_path,
    owned,
    read_object,
)
from llama2vec.errors import OutputExistsError
from llama2vec.files import write_json
from llama2vec.manifest import sealed

PLAN, OTHER = ({"settings": {"steps": steps}, "corpus": "c" * 64, "format": "test"} for steps in (2, 3))


def _read_adaptation(folder: Path) -> Found | None:
    plan = read_object(folder / "adapt.json") or {}
    is_ours = plan.get("format") == "test"
    return Found(plan, (folder / "done.json").is_file(), (folder / "checkpoint").exists()) if is_ours else None


ADAPTATION = Kind(
    "an adaptation", _read_adaptation, entries=("adapt.json", "done.json", "model", "log.jsonl*", "checkpoint/**")
)


def _read_table(path: Path) -> Found | None:
    content = read_object(path / "table.json")
    return Found(content["plan"], True) if content and content.get("format") == "table" else None


TABLE = Kind("a table", _read_table, resumable=False, entries=("table.json", "bm25/**", "half"))


def make(output: Path, plan: dict[str, object] = PLAN, text: str = "weights", *, overwrite: bool = False) -> Work:
    with claim(output, ADAPTATION, plan, overwrite=overwrite) as work:
        if not work.is_finished:
            path = work.begin(prepare=lambda folder: write_json(folder / "adapt.json", plan))
            (path / "model").write_text(text)
            write_json(path / "done.json", {})
            work.finish()
    return work


def fail(output: Path, kind: Kind, plan: dict[str, object], *left: str, overwrite: bool = False) -> None:
    with claim(output, kind, plan, overwrite=overwrite) as work:
        path = work.begin(prepare=lambda folder: write_json(folder / "adapt.json", plan))
        for name in left:
            (path / name).write_text(name)
        raise KeyboardInterrupt


def make_table(output: Path, plan: dict[str, object], keep: tuple[str, ...] = (), *, overwrite: bool = False) -> None:
    with claim(output, TABLE, plan, overwrite=overwrite) as work:
        path = work.begin(keep)
        assert not (output / "table.json").exists() or overwrite
        write_json(path / "table.json", {"format": "table", "plan": plan})
        work.finish()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_output_is_made_and_the_same_call_again_finds_it_finished(tmp_path: Path) -> None:
    output = tmp_path / "runs" / "a"
    assert not make(output).is_finished
    assert names(output) == ["adapt.json", "done.json", "model"]
    assert names(output.parent) == ["a"]
    assert make(output).is_finished


@pytest.mark.parametrize("content", ["{}", "[]", "5", '{"hash": "0"}', "", "\x00"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_a_file_of_the_same_name_is_somebody_elses(tmp_path: Path, content: str, overwrite: bool) -> None:
    (tmp_path / "adapt.json").write_text(content)
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputExistsError, match="does not hold an adaptation of llama2vec"):
        make(tmp_path, overwrite=overwrite)
    assert names(tmp_path) == ["adapt.json", "thesis.txt"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_in_the_place_of_a_folder_is_not_touched(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "a").write_text("mine")
    with pytest.raises(OutputExistsError, match="exists"):
        make(tmp_path / "a", overwrite=overwrite)
    assert (tmp_path / "a").read_text() == "mine"


def test_another_plan_is_refused_by_name_and_replaces_only_with_overwrite(tmp_path: Path) -> None:
    output = tmp_path / "a"
    make(output)
    with pytest.raises(OutputExistsError, match=r"holds an adaptation with other settings \(steps: 2 there, 3 now\)"):
        make(output, OTHER)
    make(output, OTHER, "new weights", overwrite=True)
    assert (output / "model").read_text() == "new weights"
    assert names(tmp_path) == ["a"]


def test_a_number_written_another_way_is_the_same_plan(tmp_path: Path) -> None:
    make(tmp_path / "a", {**PLAN, "settings": {"alpha": 32}, "hash": "one"})
    same = {**PLAN, "settings": {"alpha": 32.0}, "hash": "two"}
    assert make(tmp_path / "a", same).is_finished
    with pytest.raises(OutputExistsError, match=r"alpha: 32 there, 32\.5 now"):
        make(tmp_path / "a", {**PLAN, "settings": {"alpha": 32.5}, "hash": "one"})


def test_other_content_of_an_input_is_named_without_its_hash(tmp_path: Path) -> None:
    make(tmp_path / "a")
    with pytest.raises(OutputExistsError, match=r"\(corpus: the content differs\)"):
        make(tmp_path / "a", {"settings": {"steps": 2}, "corpus": "d" * 64, "format": "test"})
    with pytest.raises(OutputExistsError, match=r"\(corpus: only there\)"):
        make(tmp_path / "a", {"settings": {"steps": 2}, "corpus": None, "format": "test"})


@pytest.mark.parametrize("name", ["thesis.txt", "notes/model", "model.txt", "link"])
def test_what_llama2vec_did_not_write_is_never_replaced(tmp_path: Path, name: str) -> None:
    output = tmp_path / "a"
    make(output)
    (output / name).parent.mkdir(exist_ok=True)
    if name == "link":
        (output / name).symlink_to(tmp_path)
    else:
        (output / name).write_text("years of work")
    with pytest.raises(OutputExistsError, match=f"holds {name}, which llama2vec did not write and would delete"):
        make(output, OTHER, overwrite=True)
    assert os.path.lexists(output / name)
    assert (output / "model").read_text() == "weights"


def test_what_appears_in_the_old_output_during_the_work_is_carried_over(tmp_path: Path) -> None:
    output = tmp_path / "a"
    make(output)
    with claim(output, ADAPTATION, OTHER, overwrite=True) as work:
        path = work.begin(prepare=lambda folder: write_json(folder / "adapt.json", OTHER))
        (path / "model").write_text("new weights")
        (output / "notes").mkdir()
        (output / "notes" / "today.txt").write_text("ideas")
        work.finish()
    assert names(output) == ["adapt.json", "model", "notes"]
    assert (output / "notes" / "today.txt").read_text() == "ideas"
    assert names(tmp_path) == ["a"]


def test_discarding_an_artifact_leaves_other_files(tmp_path: Path) -> None:
    make(tmp_path / "a")
    (tmp_path / "a" / "checkpoint" / "deep").mkdir(parents=True)
    (tmp_path / "a" / "checkpoint" / "deep" / "weights").write_text("w")
    (tmp_path / "a" / "mine").mkdir()
    (tmp_path / "a" / "mine" / "thesis.txt").write_text("years of work")
    discard(tmp_path / "a", ADAPTATION)
    assert [path.relative_to(tmp_path).as_posix() for path in sorted(tmp_path.rglob("*"))] == [
        "a", "a/mine", "a/mine/thesis.txt",
    ]  # fmt: skip
    make(tmp_path / "b")
    discard(tmp_path / "b", ADAPTATION)
    assert names(tmp_path) == ["a"]


def test_a_failure_before_the_work_begins_changes_nothing(tmp_path: Path) -> None:
    make(tmp_path / "a")
    with pytest.raises(RuntimeError), claim(tmp_path / "a", ADAPTATION, OTHER, overwrite=True):
        raise RuntimeError("no such model")
    assert (tmp_path / "a" / "model").read_text() == "weights"
    with pytest.raises(RuntimeError), claim(tmp_path / "new" / "b", ADAPTATION, PLAN):
        raise RuntimeError("no such model")
    assert names(tmp_path) == ["a"]


def test_the_old_output_stays_whole_until_the_new_one_is_finished(tmp_path: Path) -> None:
    output = tmp_path / "a"
    make(output)
    with pytest.raises(KeyboardInterrupt):
        fail(output, ADAPTATION, OTHER, "checkpoint", overwrite=True)
    assert (output / "model").read_text() == "weights"
    # The same call finds what it had made; a call with another plan begins anew.
    with claim(output, ADAPTATION, OTHER, overwrite=True) as work:
        assert (work.begin() / "checkpoint").read_text() == "checkpoint"
    third = {"settings": {"steps": 4}, "format": "test"}
    with claim(output, ADAPTATION, third, overwrite=True) as work:
        assert names(work.begin(prepare=lambda folder: write_json(folder / "adapt.json", third))) == ["adapt.json"]
        (work.path / "model").write_text("third")
        write_json(work.path / "done.json", {})
        work.finish()
    assert (output / "model").read_text() == "third"
    assert names(tmp_path) == ["a"]


def test_a_start_that_came_nowhere_does_not_block_a_corrected_one(tmp_path: Path) -> None:
    output = tmp_path / "a"
    with pytest.raises(KeyboardInterrupt):
        fail(output, ADAPTATION, PLAN, "log.jsonl")
    assert names(tmp_path) == []
    # A kill cannot clean up after itself; what it leaves does not block either.
    output.mkdir()
    write_json(output / "adapt.json", PLAN)
    (output / "log.jsonl").write_text("")
    make(output, OTHER)
    assert names(output) == ["adapt.json", "done.json", "model"]


def test_an_unfinished_output_is_resumed_by_its_plan_and_refused_to_others(tmp_path: Path) -> None:
    output = tmp_path / "a"
    with pytest.raises(KeyboardInterrupt):
        fail(output, ADAPTATION, PLAN, "checkpoint", f"log.jsonl.tmp-{'0' * 32}")
    with pytest.raises(OutputExistsError, match="holds an unfinished adaptation with other settings"):
        make(output, OTHER)
    with claim(output, ADAPTATION, PLAN, overwrite=True) as work:
        assert names(work.begin()) == ["adapt.json", "checkpoint"]
        assert work.path == output


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_input_inside_the_output_is_refused(tmp_path: Path, overwrite: bool) -> None:
    make(tmp_path / "a")
    (tmp_path / "a" / "corpus.jsonl").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for name in (tmp_path / "a", tmp_path / "link", tmp_path / "a" / "corpus.jsonl"):
        with (
            pytest.raises(OutputExistsError, match=r"the input .* (is the output itself|lies inside the output)"),
            claim(tmp_path / "a", ADAPTATION, OTHER, overwrite=overwrite, inputs=["hf:some/data", None, str(name)]),
        ):
            pass
    make(tmp_path / "b")
    with claim(tmp_path / "b", ADAPTATION, PLAN, inputs=[tmp_path / "elsewhere", "\0"]) as work:
        assert work.is_finished


def test_an_output_inside_a_folder_of_inputs_is_refused(tmp_path: Path) -> None:
    texts = tmp_path / "my_texts"
    (texts / "old").mkdir(parents=True)
    (texts / "a.txt").write_text("text")
    (tmp_path / "link").symlink_to(texts)
    for name in (texts, tmp_path / "link", f"{texts}/../my_texts"):
        for output in (texts / "store", texts / "old" / "store", tmp_path / "link" / "store"):
            with (
                pytest.raises(OutputExistsError, match=r"the output .*store lies inside the input"),
                claim(output, ADAPTATION, PLAN, inputs=[str(name)]),
            ):
                pass
    with claim(tmp_path / "store", ADAPTATION, PLAN, inputs=[texts, texts / "a.txt"]) as work:
        assert not work.is_finished
    assert names(texts) == ["a.txt", "old"]


def test_what_appears_only_whole_leaves_nothing_when_it_fails(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fail(tmp_path / "t", TABLE, {"kind": 1}, "half")
    assert names(tmp_path) == []
    make_table(tmp_path / "t", {"kind": 1})
    with pytest.raises(OutputExistsError, match=r"holds a table with other settings \(kind: 1 there, 2 now\)"):
        make_table(tmp_path / "t", {"kind": 2})


@pytest.mark.parametrize("can_exchange", [True, False])
def test_kept_parts_are_in_the_new_output_from_its_first_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    make_table(tmp_path / "t", {"kind": 1})
    (tmp_path / "t" / "bm25").mkdir()
    (tmp_path / "t" / "bm25" / "words").write_text("w")
    if not can_exchange:
        monkeypatch.setattr(files, "_rename", lambda one, other, flags: False)
    make_table(tmp_path / "t", {"kind": 2}, ("bm25", "absent"), overwrite=True)
    assert (tmp_path / "t" / "bm25" / "words").read_text() == "w"
    assert json.loads((tmp_path / "t" / "table.json").read_text())["plan"] == {"kind": 2}
    assert names(tmp_path) == ["t"]


def test_a_swap_that_a_kill_cut_in_two_is_undone_by_the_next_owner(tmp_path: Path) -> None:
    make_table(tmp_path / "t", {"kind": 1})
    (tmp_path / "t").rename(tmp_path / ".old-t")
    with claim(tmp_path / "t", TABLE, {"kind": 1}) as work:
        assert work.is_finished
    assert names(tmp_path) == ["t"]


def test_a_look_at_an_output_undoes_such_a_swap_too(tmp_path: Path) -> None:
    make_table(tmp_path / "t", {"kind": 1})
    (tmp_path / "t").rename(tmp_path / ".old-t")
    bring_back(tmp_path / "t" / "bm25")  # a part of it
    assert names(tmp_path) == ["t"]
    (tmp_path / "t").rename(tmp_path / ".old-t")
    found = find(tmp_path / "t", TABLE)
    assert found is not None
    assert found.plan == {"kind": 1}


def test_the_root_of_a_volume_is_refused_before_the_work_that_would_replace_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path).name == "volume")
    volume = tmp_path / "volume"
    volume.mkdir()
    with pytest.raises(OutputExistsError, match=r"volume is the root of a volume.*name a folder inside it"):
        make_table(volume, {"kind": 1})
    make(volume)  # in place
    assert make(volume).is_finished
    with pytest.raises(OutputExistsError, match="root of a volume"):
        make(volume, OTHER, overwrite=True)
    make_table(volume / "t", {"kind": 1})
    assert names(tmp_path) == ["volume"]


def test_a_second_owner_gets_one_line_while_the_first_lives(tmp_path: Path) -> None:
    code = (
        "import sys, time; from llama2vec.artifact import owned\n"
        "with owned(sys.argv[1]): print('mine', flush=True); time.sleep(60)"
    )
    output = tmp_path / "a"
    with subprocess.Popen([sys.executable, "-c", code, str(output)], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "mine\n"
        with pytest.raises(OutputExistsError, match=f"a: process {first.pid} on .* is writing it"):
            make(output)
        first.send_signal(signal.SIGKILL)
        first.wait()
    make(output)
    assert names(tmp_path) == ["a"]


def test_one_process_cannot_own_an_output_twice_and_keeps_others_out_after_it_tried(tmp_path: Path) -> None:
    code = "import sys; from llama2vec.artifact import owned\nwith owned(sys.argv[1]): pass"
    other = [sys.executable, "-c", code, str(tmp_path / "a")]
    with owned(tmp_path / "a"):
        with pytest.raises(OutputExistsError, match="a: this process is writing it"), owned(tmp_path / "a"):
            pass
        said = subprocess.run(other, capture_output=True, text=True, check=False).stderr
        assert "OutputBusyError" in said
    with owned(tmp_path / "a"):
        pass


def test_a_finished_output_is_found_where_nobody_may_write(tmp_path: Path) -> None:
    make(tmp_path / "a")
    tmp_path.chmod(0o555)
    try:
        assert make(tmp_path / "a").is_finished
    finally:
        tmp_path.chmod(0o755)


def test_a_single_file_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    kind = Kind(
        "mined examples", lambda path: Found({"n": int(path.read_text())}, True), resumable=False, is_folder=False
    )
    output = tmp_path / "mined.jsonl"
    for number in (1, 2):
        with claim(output, kind, {"n": number}, overwrite=True) as work:
            assert work.begin() == new_path(output)
            work.path.write_text(str(number))
            work.finish()
    assert output.read_text() == "2"
    assert names(tmp_path) == ["mined.jsonl"]


@pytest.mark.parametrize("began_later", [False, True])
def test_what_a_kill_right_after_the_swap_leaves_goes_with_the_next_call(tmp_path: Path, began_later: bool) -> None:
    make(tmp_path / "a", OTHER)
    (tmp_path / "a").rename(tmp_path / ".new-a")
    make(tmp_path / "a")
    # Older files were replaced; newer ones are a replacement that other settings began, to be resumed.
    moment = time.time() + (9 if began_later else -9)
    for file in (tmp_path / ".new-a").iterdir():
        os.utime(file, (moment, moment))
    (tmp_path / ".lock-a").write_text("process 1 on nowhere\n")
    assert make(tmp_path / "a").is_finished
    assert names(tmp_path) == ([".new-a", "a"] if began_later else ["a"])


def test_a_folder_that_appears_when_it_is_whole_is_recognized_by_its_unchanged_file(tmp_path: Path) -> None:
    kind = folder_kind("a table", "table.json", {"format": "table", "version": 1}, ("table.json",))
    assert kind.read(tmp_path) is None
    content = {"format": "table", "version": 1, "made": {"rows": 2}}
    for written, found in (
        (content, Found({"rows": 2}, finished=True)),
        (sealed(content), Found({"rows": 2}, finished=True)),
        ({**sealed(content), "made": {"rows": 3}}, None),
        ({**content, "format": "other"}, None),
    ):
        write_json(tmp_path / "table.json", written)
        assert kind.read(tmp_path) == found


def test_what_is_no_object_is_none_and_what_the_system_refuses_is_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, loop = tmp_path / "about.json", tmp_path / "loop.json"
    file.write_text("{")
    loop.symlink_to(loop)
    os.mkfifo(tmp_path / "pipe.json")
    absent = (
        file,
        loop,
        tmp_path,
        tmp_path / "pipe.json",
        tmp_path / "no.json",
        file / "x.json",
        tmp_path / ("x" * 999),
    )
    assert [read_object(path) for path in absent] == [None] * len(absent)
    file.write_text('{"a": 1}')
    assert read_object(file) == {"a": 1}

    def refused(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(PermissionError, match=r"Permission denied: '.*about\.json'"):
        read_object(file)
