"""Documents name only commands, options, files and pages that exist."""

from __future__ import annotations

import re
import shlex
from itertools import takewhile
from pathlib import Path
from textwrap import indent
from typing import Any

import pytest
import typer.main
from markdown_it import MarkdownIt

from llama2vec.cli import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted(page for page in (ROOT / "docs").glob("*.md") if page.name != "cli.md"),
    *sorted((ROOT / "recipes").glob("*.toml")),
]
# A line of an indented or fenced block, the first line of a recipe, or words between backticks.
COMMAND = re.compile(
    r"(?:^(?: {4,}|# )|`|\) )(?:[A-Z_]+=\S+ )?"
    r"(?:(?:\.venv/bin/)?llama2vec|\S*python -m llama2vec\.cli|torchrun .*?-m llama2vec\.cli) "
    r"([a-z]+\b(?: [^`\n]*)?)",
    re.MULTILINE,
)


BLOCK = re.compile(r"^ {4,}(?:[A-Z_]+=\S+ )*(?:\.venv/bin/)?llama2vec ([a-z]+\b.*)$", re.MULTILINE)
"""A command of an indented or fenced block, with all of its arguments."""


def plain(page: Path) -> str:
    """Return a page's text, with continued lines joined and fenced blocks indented."""
    text = re.sub(r"\\\n\s*", "", page.read_text(encoding="utf-8"))
    return re.sub(r"```\w*\n.*?```", lambda block: indent(block[0], "    "), text, flags=re.DOTALL)


def commands(page: Path) -> list[tuple[str, set[str]]]:
    """Return (verb, its options) of every command on a page; continued lines are joined and comments dropped."""
    found = []
    for line in COMMAND.findall(plain(page)):
        words = re.sub(r"""\$\([^)]*\)|"[^"]*"|'[^']*'| # .*|\s{2,}.*""", " ", line).split()
        found.append((words[0], {word.partition("=")[0] for word in words[1:] if re.match(r"-{1,2}[a-z]", word)}))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_documented_commands_exist_with_their_options(page: Path) -> None:
    group: Any = typer.main.get_command(app)
    verbs = {verb: group.get_command(None, verb) for verb, _ in commands(page)}
    for verb, options in commands(page):
        assert verbs[verb], f"{page.name}: llama2vec {verb}"
        known = {name for parameter in verbs[verb].params for name in (*parameter.opts, *parameter.secondary_opts)}
        assert options <= known | {"--help", "-h"}, f"{page.name}: llama2vec {verb}"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "lab-notes.md"], ids=lambda page: page.name)
def test_documented_commands_parse(page: Path) -> None:
    """Notes are left out: their commands are those of their day."""
    group: Any = typer.main.get_command(app)
    for line in BLOCK.findall(plain(page)):
        words = list(takewhile(lambda word: word not in ("|", "&", "&&", ";", ">"), shlex.split(line, comments=True)))
        if not any("$" in word for word in words):
            group.get_command(None, words[0]).make_context(words[0], words[1:])


@pytest.mark.parametrize("page", [page for page in PAGES if page.suffix == ".md"], ids=lambda page: page.name)
def test_links_and_named_source_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = {link for link in re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", text) if not (page.parent / link).exists()}
    # `adapt/joint.py: bag_of_tokens_loss`, `recipes/demo.toml`, `tests/unit/adapt/test_joint.py`
    named = re.findall(r"`((?:[\w-]+/)+[\w-]+\.(?:py|toml))\b", text)
    if page.name == "CHANGELOG.md":  # Its rows name a benchmark where it lay in their day
        named = [name for name in named if not name.startswith("benchmarks/")]
    homes = [ROOT, ROOT / "src" / "llama2vec", ROOT / "docs"]
    files = {name for name in named if not any((home / name).is_file() for home in homes)}
    assert (links, files) == (set(), set())


def test_commands_are_found_in_blocks_in_sentences_and_across_lines() -> None:
    readme = commands(ROOT / "README.md")
    assert len(readme) > 12
    assert ("serve", set()) in readme
    assert ("adapt", {"--corpus", "--output"}) in commands(ROOT / "recipes" / "smollm2-cpu.toml")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in re.findall(r"^#+ (.+)$", text, re.M)}


@pytest.mark.parametrize("page", [*(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")], ids=lambda page: page.name)
def test_links_to_headings_lead_to_one(page: Path) -> None:
    links = re.findall(r"\]\(([\w/.-]*\.md)?#([^)\s]+)\)", page.read_text(encoding="utf-8"))
    lost = [(name, anchor) for name, anchor in links if anchor not in anchors(page.parent / name if name else page)]
    assert lost == []


READ = [page for page in {*PAGES, *ROOT.glob("*.md"), *ROOT.glob("docs/*.md")} if page.name != "CHANGELOG.md"]
READ += [ROOT / "benchmarks" / "README.md", *ROOT.glob("models/*/README.md")]
WIDE_PAGES = sorted(page for page in READ if page.suffix == ".md")
MOST_LETTERS = 120
"""Of a line of code: GitHub shows about 115, and outputs of the command line have up to 120."""
MOST_COLUMNS = 9


@pytest.mark.parametrize("page", WIDE_PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_code_and_tables_fit_the_width_of_a_page(page: Path) -> None:
    blocks = MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))
    code = [line for block in blocks if block.type in ("fence", "code_block") for line in block.content.splitlines()]
    assert [line for line in code if len(line) > MOST_LETTERS] == []
    rules = re.findall(r"^\|(?: *:?-+:? *\|)+$", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert [rule for rule in rules if rule.count("|") - 1 > MOST_COLUMNS] == []
