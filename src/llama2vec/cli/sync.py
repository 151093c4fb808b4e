"""``llama2vec sync``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llama2vec.cli.options import (
    READ_MODEL_KEYS,
    Device,
    Dtype,
    Prompts,
    Strict,
    check_prompts,
    model_settings,
    model_spec,
    set_option,
)
from llama2vec.cli.settings_options import lists_settings
from llama2vec.config import load_config
from llama2vec.retrieve.syncing.following import Following, SyncSettings
from llama2vec.terminal import counted, display

if TYPE_CHECKING:
    from llama2vec.retrieve.syncing.library import SyncReport


@lists_settings(SyncSettings, READ_MODEL_KEYS)
def sync_command(
    folder: Annotated[Path, typer.Argument(help="Folder of documents, at any depth; or one document.")],
    index: Annotated[Path, typer.Argument(help="Index to make, or to bring up to date.")],
    model: Annotated[
        str | None, typer.Option(help="Encoder for the vectors; default: that of the last sync, else BM25 alone.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Sync again whenever a file changes, until Ctrl-C.")] = False,
    strict: Strict = False,
    prompts: Prompts = None,
    sets: Annotated[list[str] | None, set_option("language=de; remembered for later syncs")] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Let this folder take over an index of another folder.")
    ] = False,
) -> None:
    """Keep an index in step with a folder: only what changed is read and encoded."""
    check_prompts(prompts, has_model=model is not None)
    loading, others = model_settings(dtype, device, sets)
    settings = load_config(SyncSettings, None, others)
    following = Following(
        folder, index, None if model is None else model_spec(model, prompts), loading, settings,
        strict=strict, follow=overwrite, on_words=lambda report: _print_words(report, index),
    )  # fmt: skip
    started = time.monotonic()
    if not watch:
        print_report(following.sync(), index, time.monotonic() - started)
        return
    for report in following.changes():
        print_report(report, index, time.monotonic() - started)
        display(f"Watching {folder}; press Ctrl-C to stop.", err=True)
        started = time.monotonic()
    display("Stopped watching.", err=True)


def _print_words(report: SyncReport, index: Path) -> None:
    display(
        f"{index} can be searched with BM25 now; vectors for {counted(report.passages, 'passage')} come next.", err=True
    )


def print_report(report: SyncReport, index: Path, seconds: float, *, err: bool = False) -> None:
    """Print what a sync did, and every file that was skipped or only partly read."""
    counts = report.counts
    numbers: list[str] = []
    for what in ("added", "changed", "renamed", "deleted", "unchanged"):
        if number := getattr(counts, what):
            numbers.append(f"{number:,} {what}" if numbers else f"{counted(number, 'file')} {what}")
    encoded = f", {report.encoded:,} of them newly encoded" if report.encoded else ""
    kind = "" if report.has_vectors else " without vectors"
    state = f"{counted(report.passages, 'passage')}{kind}{encoded}"
    display(f"{index}: {', '.join(numbers)}; {state}; {seconds:,.1f} s", err=err)
    display(*report.reading.table().splitlines()[1:], err=err)
