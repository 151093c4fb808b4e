"""The pile of files: releases are unpacked whole, and a question is answered by any of its files."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest


def _archive(files: dict[str, str]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, text in files.items():
            content = text.encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return made.getvalue()


def test_only_documentation_is_unpacked_and_nothing_outside_the_folder(tmp_path: Path) -> None:
    import pile

    files = {"tool-1/docs/a.md": "A", "tool-1/src/b.py": "B", "tool-1/docs/../../c.md": "C", "tool-1/man/d.1": "D"}
    pile.unpack(_archive(files), tmp_path / "files" / "tool-1")
    found = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()}
    assert found == {"files/tool-1/docs/a.md", "files/tool-1/man/d.1"}


def test_an_archive_that_ends_early_leaves_no_release_behind(tmp_path: Path) -> None:
    import pile

    whole = _archive({f"tool-1/docs/{number}.md": str(number) * 5000 for number in range(20)})
    with pytest.raises((EOFError, tarfile.ReadError)):
        pile.unpack(whole[: len(whole) // 2], tmp_path / "tool-1")
    assert not (tmp_path / "tool-1").exists()


def test_mistakes_end_in_one_line_before_anything_is_fetched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import pile

    monkeypatch.setattr(pile, "fetched", lambda *_: pytest.fail("fetched"))
    foreign = tmp_path / "notes.json"
    foreign.write_text('{"mine": 1}')
    for model, output, told in (
        ("llama2vec-smollm2-135m", foreign, "notes.json does not hold results of this command"),
        (str(tmp_path / "absent"), tmp_path / "pile.json", "absent"),
    ):
        with pytest.raises(SystemExit) as ended:
            pile.main(["--model", model, "--work", str(tmp_path / "work"), "--output", str(output)])
        error = capsys.readouterr().err
        assert ended.value.code == 2
        assert told in error
        assert error.count("\n") == 1
    assert foreign.read_text() == '{"mine": 1}'
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize(
    "page", ["<html>not JSON</html>", json.dumps({"files": [{"url": "a", "hashes": {"sha256": "0"}}]}), "[1]", None]
)
def test_an_index_without_the_release_is_told_in_one_line(page: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    import httpx
    import pile

    from llama2vec.errors import ConfigError

    def answer(url: str, **_: object) -> httpx.Response:
        status = 503 if page is None else 200
        return httpx.Response(status, text=page or "", request=httpx.Request("GET", url))

    monkeypatch.setenv("PIP_INDEX_URL", "https://index.example/simple")
    monkeypatch.setattr(pile.httpx, "get", answer)
    with pytest.raises(ConfigError, match=r"^https://index\.example/simple/tool/ .*PIP_INDEX_URL") as told:
        pile.fetched("tool-1.0", "a" * 64)
    assert "\n" not in str(told.value)


def test_a_question_counts_as_answered_among_the_first_three() -> None:
    import pile

    questions = [
        {"id": "a", "kind": "near", "files": ["tool/docs/a.md"]},
        {"id": "b", "kind": "deep", "files": ["tool/docs/b.csv"]},
        {"id": "c", "kind": "deep", "files": ["tool/docs/c.md"]},
    ]
    assert pile.answers("tool/docs/b.csv#7", questions[1]), "a row of a file is in the file"
    assert not pile.answers("tool/docs/b.csv.md", questions[1])
    assert pile.summary({"a": 3, "b": 4, "c": None}, questions) == {
        "answered": 1,
        "answered_by_kind": {"deep": 0, "near": 1},
        "first": 0,
        "MRR@10": pytest.approx((1 / 3 + 1 / 4) / 3),
        "ranks": {"a": 3, "b": 4, "c": None},
    }


def test_questions_name_files_of_the_releases() -> None:
    import pile

    questions = json.loads(pile.QUESTIONS.read_text(encoding="utf-8"))
    assert len({question["id"] for question in questions}) == len(questions)
    for question in questions:
        assert question["question"].endswith("?")
        assert {file.split("/")[0] for file in question["files"]} <= set(pile.RELEASES)
