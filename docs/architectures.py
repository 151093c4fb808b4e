"""Write the tables of docs/architectures.md from benchmarks/results/architectures.json, or --check them."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_suffix(".md")
RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results" / "architectures.json"
START, END = "<!-- tables -->\n", "<!-- end -->\n"
HEAD = (
    "| architecture | attention | sequences | largest difference | LoRA on | saved, loaded, verified |",
    "|---|---|---|---|---|---|",
)


def tables(results: Mapping[str, Any]) -> str:
    """Return a table for each group of architectures."""
    rows: Sequence[Mapping[str, Any]] = results["architectures"]
    groups = dict.fromkeys(row["group"] for row in rows)
    parts = [f"{len(rows)} architectures, transformers {results['transformers']}.\n"]
    for group in groups:
        lines = [_row(row) for row in rows if row["group"] == group]
        parts.append("\n".join([f"### {group[0].upper()}{group[1:]}\n", *HEAD, *lines]) + "\n")
    return "\n".join(parts)


def _row(row: Mapping[str, Any]) -> str:
    name = f"| `{row['architecture']}` "
    if "refused" in row or "fault" in row:
        return f"{name}| – | – | – | – | {row.get('refused') or 'FAULT: ' + row['fault']} |"
    verified = row["verified by llama2vec"] and row["verified by transformers"]
    difference = max(row["verify llama2vec"], row["verify transformers"])
    return (
        f"{name}| {row['attention']} | {row['sequences']} | {row['difference']:.0e} | {', '.join(row['lora'])} "
        f"| {'yes' if verified else 'NO'}, {difference:.0e} |"
    )


def with_tables(page: str, results: Mapping[str, Any]) -> str:
    """Return the page with its tables replaced."""
    return re.sub(f"(?<={START}).*(?={END})", lambda _: f"\n{tables(results)}\n", page, flags=re.DOTALL)


def main() -> None:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail instead of writing")
    options = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    new = with_tables(page, json.loads(RESULTS.read_text(encoding="utf-8")))
    if options.check and page != new:
        sys.exit(f"{PAGE.name} is stale; run python -m docs.architectures")
    if not options.check:
        PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
