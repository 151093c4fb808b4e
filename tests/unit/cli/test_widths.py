"""What the commands print on terminals of several widths, and without a terminal."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from running import CommandLine
from word_encoder import write_task

from llama2vec import terminal
from llama2vec.cli import seeds
from llama2vec.data.tasks.trec import write_run
from llama2vec.model.encoder import Encoder
from llama2vec.records import Run
from llama2vec.terminal import width_of

INTERVAL = re.compile(r"\[[-+−]?[\d.]+, [-+−]?[\d.]+\]")
CPU = ["--device", "cpu"]
LONG = "adapted-on-the-manuals-of-cranes-with-two-epochs"

Shown = Callable[..., str]


@pytest.fixture
def shown(command_line: CommandLine, monkeypatch: pytest.MonkeyPatch) -> Shown:
    """Return what a command prints on stdout, on a terminal of so many columns, or without one (0)."""

    def run(width: int, *arguments: object, code: int = 0) -> str:
        monkeypatch.setenv("COLUMNS", str(width or 60))
        stdout = lambda stream: width > 0 and not stream._bars  # noqa: E731
        monkeypatch.setattr(terminal.PlainStream, "isatty", stdout, raising=False)
        done = command_line(*arguments)
        assert done.code == code, done.err
        return done.out

    return run


@pytest.fixture(scope="module")
def folder(llama_folder: Path, corpus_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny model, an encoder, a corpus, tasks, runs, results of seeds and labeled examples."""
    home = tmp_path_factory.mktemp("widths")
    shutil.copytree(llama_folder, home / "llm")
    Encoder.load(llama_folder).save(home / "encoder")
    shutil.copy(corpus_file, home / "corpus.jsonl")
    rows = [json.loads(line) for line in corpus_file.read_text(encoding="utf-8").splitlines()]
    texts = {row["_id"]: row["text"] for row in rows}
    queries = {f"question-{number}": row["text"][:40] for number, row in enumerate(rows)}
    for name in ("tasks/cranes", "tasks/manuals-of-the-harbour-cranes"):
        write_task(
            home / name, texts, queries, {query: {row["_id"]: 1} for query, row in zip(queries, rows, strict=True)}
        )
    for place, tag in enumerate(("bm25", LONG, f"{LONG}-tuned")):
        ranks = {query: {name: 1.0 / (1 + (number * (place + 2) + row) % 7) for row, name in enumerate(texts)}
                 for number, query in enumerate(queries)}  # fmt: skip
        write_run(Run(ranks, tag), home / f"{tag}.trec")
    examples = [{"query": row["text"][:30], "pos": [row["text"]], "neg": ["A stone."]} for row in rows] * 6
    lines = [json.dumps(row) for row in examples]
    (home / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (home / "faulty.jsonl").write_text("\n".join([*lines, '{"query": "", "pos": ["a"]}', "{}"]), encoding="utf-8")
    (home / "documents").mkdir()
    (home / "documents" / "cranes.md").write_text("# Cranes\n\nA crane lifts.\n", encoding="utf-8")
    for number in range(5):
        (home / "documents" / f"photograph-{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return home


CALLS: dict[str, list[object]] = {
    "compare": ["compare", "bm25.trec", f"{LONG}.trec", f"{LONG}-tuned.trec", "--task", "tasks/cranes",
                "--metric", "nDCG@10", "--metric", "R@100"],
    "evaluate": ["evaluate", "bm25", "--task", "tasks/cranes", "--task", "tasks/manuals-of-the-harbour-cranes"],
    "run": ["run", "--corpus", "corpus.jsonl", "--model", "llm", "-o", "runs/of-the-harbour", "--dry-run",
            "--flops", "1e9"],
    "adapt": ["adapt", "--corpus", "corpus.jsonl", "--model", "llm", "-o", "out", "--dry-run"],
    "finetune": ["finetune", "--data", "rows.jsonl", "--model", "llm", "-o", "out", "--dry-run"],
    "generate": ["generate", "corpus.jsonl", "--model", "llm", "-o", "out.jsonl", "--dry-run"],
    "explain": ["explain", "llm", "-q", "river stone castle", "-p", "The river is wide. The castle is old. " * 3,
                "--evidence", *CPU],
    "recipes": ["recipes"],
    "check": ["check", "rows.jsonl", "--model", "llm", "--set", "encoder.query_max_tokens=8"],
    "mine": ["mine", "rows.jsonl", "-o", "mined.jsonl", "--corpus", "corpus.jsonl", "--overwrite"],
    "verify": ["verify", "encoder", *CPU],
    "sync": ["sync", "documents", "index"],
    "settings": ["finetune", "--list-settings"],
}  # fmt: skip


MEASURED = ("adapt", "finetune", "generate", "mine", "sync")
"""Commands that print times which differ from call to call."""


def words(text: str, name: str) -> set[str]:
    """Return the words of an output, without its rules and bars."""
    found = {word for word in text.split() if not set(word) <= set("─█")}
    return {re.sub(r"\d+", "0", word) for word in found} if name in MEASURED else found


def is_shortened(word: str, whole: set[str]) -> bool:
    """Tell whether a word is another one with an ellipsis in its middle."""
    begin, mark, end = word.partition("…")
    return bool(begin and mark and end) and any(one.startswith(begin) and one.endswith(end) for one in whole)


@pytest.mark.parametrize("name", CALLS)
def test_a_terminal_gets_whole_words_and_a_pipe_whole_lines(
    shown: Shown, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    texts: dict[int, str] = {}
    for width in (0, 120, 80, 60):
        shutil.rmtree("index", ignore_errors=True)
        texts[width] = shown(width, *CALLS[name])
    piped = texts.pop(0)
    whole = words(piped, name)
    for width, text in texts.items():
        # A path that is wider than the terminal stays whole, alone on its line.
        assert [line for line in text.splitlines() if width_of(line) > width and " " in line.strip()] == []
        assert {word for word in words(text, name) - whole if not is_shortened(word, whole)} == set()
        assert sorted(INTERVAL.findall(text)) == sorted(INTERVAL.findall(piped))
        assert not re.search(r"\d\n +(%|s|GiB|MiB)\b|[~<]\n", text)
    assert [line for line in piped.splitlines() if set(line) & set("─")] == []


def test_a_pipe_gets_one_line_for_each_row_with_full_names(
    shown: Shown, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    rows = [line for line in shown(0, *CALLS["compare"]).splitlines() if INTERVAL.search(line)]
    for row, name in zip(rows, [LONG, f"{LONG}-tuned"] * 2, strict=True):
        assert row.startswith(f"{name} − bm25 ")
        assert len(INTERVAL.findall(row)) == 2
        assert re.search(r" \d+/\d+/\d+$", row)


def test_stages_of_a_plan_keep_their_reasons_beside_them(
    shown: Shown, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    lines = shown(60, *CALLS["run"]).splitlines()
    place = next(place for place, line in enumerate(lines) if line.startswith("adapt "))
    assert re.fullmatch(r"adapt +~ [\d.]+ [GM]iB +~ \S+ s  run +not done yet", lines[place])
    assert lines[place + 1 : place + 3] == ["  reads   llm, corpus.jsonl", "  writes  adapted"]


def test_problems_of_labeled_rows_are_counted_before_they_are_named(
    shown: Shown, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    for width in (0, 60):
        lines = shown(width, "check", "faulty.jsonl", code=2).splitlines()
        assert "Problems: 2 in 2 rows" in lines, lines
        assert any(re.match(r" +2  empty query$", line) for line in lines)


def test_the_table_of_seeds_fits_its_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = {f"{LONG}: {name}": {"values": [0.5] * 8, "mean": 0.5, "std": None} for name in ("loss", "R@100")}
    monkeypatch.setattr(seeds, "display", lambda table: print("\n".join(table.lines(60))))
    seeds._print("finetune, 8 seeds", range(8), figures)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 60
    assert lines[1:3] == [f"{LONG}: loss", "  seed 0  0.5000"]
