"""``llama2vec evaluate``."""

from __future__ import annotations

import logging
import os
import re
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from llama2vec.cli.options import (
    ENCODER_KEYS,
    OF_ENCODER,
    DataRoot,
    EncoderLoading,
    as_overrides,
    load_encoder,
    set_option,
    with_options,
)
from llama2vec.cli.settings_options import given_options, lists_settings, options_from, refuse_options
from llama2vec.config import load_config
from llama2vec.data.settings import Ties
from llama2vec.errors import ConfigError
from llama2vec.files import check_inputs
from llama2vec.score.settings import ScoringSettings
from llama2vec.terminal import counted, display

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llama2vec.score.systems import Stores, System


logger = logging.getLogger(__name__)
_Kind = Literal["bm25", "run", "model"]


class _Settings(ScoringSettings):
    """What ``--set`` takes besides the encoder's own settings."""

    stores: Path | None = None  # Folder of encoded corpora: those in it are used, new ones are kept there
    ties: Ties | None = None  # Order of a run's equal scores: as trec_eval (the default), or by id as our own systems
    encode_only: bool = False  # Only encode the corpora into ``stores``; several processes may share the work


_Tasks = Annotated[
    list[str],
    typer.Option(
        "--task",
        help="beir/NAME, msmarco/passage/dev, msmarco/document/dev, trec-dl/2019[/document], sts/NAME, a BEIR folder "
        "(PATH or PATH:SPLIT), ir:ID, a TSV of sentence pairs, hf:NAME; repeatable.",
    ),
]
_Sets = Annotated[
    list[str] | None,
    set_option(
        keys="windows=maxp or firstp, window_tokens, stride, exclude_same_id, ties=trec_eval or id, language, "
        f"reading.KEY, stores=FOLDER, encode_only=true, {OF_ENCODER}"
    ),
]


@options_from(EncoderLoading, "loading", panel="Model")
@lists_settings(_Settings, *ENCODER_KEYS)
def evaluate_command(
    loading: EncoderLoading,
    model: Annotated[str, typer.Argument(help="Saved encoder, any causal LM, bm25, or a TREC run.")],
    tasks: _Tasks,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for scores, runs and values per query; rerun to resume."),
    ] = None,
    data_root: DataRoot = "data",
    metrics: Annotated[
        list[str] | None, typer.Option("--metric", help="nDCG@10, R@100, …; default: the task's; repeatable.")
    ] = None,
    depth: Annotated[
        int | None, typer.Option(min=1, help="Passages per query; default: the task's, usually 1000.")
    ] = None,
    mode: Annotated[str, typer.Option(help="dense, or hybrid for vectors and BM25 together.")] = "dense",
    name: Annotated[str | None, typer.Option(help="Name of the system in the results.")] = None,
    sets: _Sets = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Score finished tasks again.")] = False,
) -> None:
    """Score a model, BM25 or a run on retrieval tasks, and a model on sentence pairs.

    Our own systems rank equal scores by ascending id, and trec_eval gives the run in --output the same numbers. A given
    run is scored as by trec_eval: equal scores, in single precision, by descending id (--set ties=id: ascending).
    """
    from llama2vec.data.tasks.trec import check_id
    from llama2vec.score.systems import BM25, Stores, System

    _check_mode(mode, model)
    own = [text for text in sets or [] if re.split(r"[.=]", text)[0].strip() in _Settings.model_fields]
    named = [text for text in sets or [] if text.partition("=")[0].strip() == "prompts"]
    named = with_options(named, ("--prompts", "prompts", loading.prompts))
    prompts = loading.prompts or (named[-1].partition("=")[2].strip() if named else None)
    encoder_sets = [text for text in sets or [] if text not in own + named]
    settings = _scoring_settings(own, metrics, depth, data_root)
    is_run = Path(model).is_file() and Path(model).suffix != ".gguf"
    kind: _Kind = "bm25" if model == BM25 else "run" if is_run else "model"
    _check_unused(kind, loading, settings, mode)
    if model == BM25 and encoder_sets + named:
        # Not the encoder's settings then: names the nearest of ours.
        load_config(_Settings, None, encoder_sets + named)
    name = name or (None if is_run else _own_name(model, mode))
    # A typo shows before a model is loaded.
    check_id(name or "run", "name of the system", "--name")
    _check_tasks(tasks, settings, writes=overwrite or output is not None)
    if settings.encode_only and (model == BM25 or settings.stores is None):
        raise ConfigError("encode_only needs a model and a folder; give a model and --set stores=FOLDER")
    for folder in filter(None, (output, settings.stores)):
        check_inputs(folder, [None if model == BM25 else model])
    if is_run and (mode == "hybrid" or settings.encode_only or settings.windows or encoder_sets + named):
        raise ConfigError(f"{model}: a run is scored as it is; leave out --mode, windows and a model's settings")
    if is_run:
        system = _run_system(model, name, settings.ties)
    else:
        encoder = None if model == BM25 else load_encoder(model, loading.dtype, loading.device, prompts, encoder_sets)
        system = System(str(name), encoder, "hybrid" if mode == "hybrid" else "dense")
    if settings.encode_only:
        _encode(system, tasks, settings)
    else:
        _evaluate(system, tasks, output, settings, Stores(settings.stores), overwrite=overwrite)


def _check_mode(mode: str, model: str) -> None:
    if mode not in ("dense", "hybrid"):
        raise ConfigError(f"--mode {mode}: choose dense or hybrid; for BM25 alone, give bm25 as the model")
    if mode == "hybrid" and model == "bm25":
        raise ConfigError("--mode hybrid joins BM25 with a model's vectors; give a model, not bm25")


def _own_name(model: str, mode: str) -> str:
    """Return the name of a system, the same for ``tuned``, ``./tuned`` and ``tuned/``."""
    plain = os.path.normpath(model) if Path(model).is_dir() else model
    return f"{plain}+bm25" if mode == "hybrid" else plain


def _scoring_settings(sets: Sequence[str], metrics: list[str] | None, depth: int | None, data_root: str) -> _Settings:
    # Its default and the environment give way to --set.
    root = data_root if data_root not in ("data", os.environ.get("LLAMA2VEC_DATA")) else None
    options = ("--metric", "metrics", metrics), ("--depth", "depth", depth), ("--data-root", "data_root", root)
    default = as_overrides({"data_root": data_root or "."})
    return load_config(_Settings, None, [*default, *with_options(sets, *options)])


def _check_tasks(tasks: Sequence[str], settings: _Settings, *, writes: bool) -> None:
    """Check that the settings concern the tasks; ``writes`` = a folder for scores was named."""
    from llama2vec.score.tasks import check_scoring, find_task

    if settings.encode_only and writes:
        raise ConfigError("encode_only=true writes no scores; leave out --output and --overwrite")
    if all(find_task(name).kind == "similarity" for name in tasks):
        if settings.encode_only:
            raise ConfigError("sentence pairs have no corpus to encode; leave out encode_only, or add a retrieval task")
        if settings.metrics or settings.depth:
            problem = "sentence pairs are scored by spearman and pearson, whatever --metric and --depth say"
            raise ConfigError(f"{problem}; leave them out, or add a retrieval task")
    check_scoring(tasks, settings)


def _check_unused(kind: _Kind, loading: EncoderLoading, settings: _Settings, mode: str) -> None:
    """Refuse options and settings that would change nothing."""
    what = {"bm25": "bm25", "run": "a run"}.get(kind)
    if what:
        refuse_options(given_options(loading), f"belongs to a model, and this is {what}")
    if what and settings.stores:
        raise ConfigError(f"stores=FOLDER keeps the vectors of a model; leave it out for {what}")
    if kind != "run" and settings.ties:
        raise ConfigError(
            f"ties={settings.ties} orders the equal scores of a run; leave it out for {what or 'a model'}"
        )
    if kind != "bm25" and mode != "hybrid" and "language" in settings.model_fields_set:
        raise ConfigError(
            f"language={settings.language} is that of BM25's words; leave it out for {what or 'vectors alone'}"
        )


def _run_system(run: str, name: str | None, ties: Ties | None) -> System:
    from llama2vec.data.tasks.trec import read_run
    from llama2vec.score.runs import ties_of
    from llama2vec.score.systems import System

    found = read_run(run)
    return System(name or found.tag, run=found, ties=ties or ties_of(Path(run)))


def _encode(system: System, tasks: Sequence[str], settings: _Settings) -> None:
    """Only encode the corpora."""
    from llama2vec.score.evaluator import encode_tasks

    assert settings.stores
    for store in encode_tasks(system, tasks, settings.stores, settings):
        display(f"Encoded {counted(len(store), 'passage')} [D={store.dimension}] to {store.path}")


def _evaluate(
    system: System, tasks: Sequence[str], output: Path | None, settings: ScoringSettings, stores: Stores, *,
    overwrite: bool,
) -> None:  # fmt: skip
    """Score into a folder, or only show the scores."""
    from llama2vec.model.source import scratch_folder
    from llama2vec.score.evaluator import evaluate_tasks
    from llama2vec.score.report.text import task_table

    if output is None and system.encoder is not None and stores.folder is None:
        logger.warning("without --output nothing is kept: after an interruption, all texts are encoded again")
    home = Path(tempfile.gettempdir())
    with nullcontext(output) if output else scratch_folder(home, "llama2vec-") as folder:
        scores = evaluate_tasks(system, tasks, folder, settings, stores=stores, overwrite=overwrite)
    display(task_table(scores))
    if output:
        kept = sum(score.result.kept for score in scores)
        new = len(scores) - kept
        scored = f"Scored {counted(new, 'task')}" + (f"; {kept:,} already scored" if kept else "")
        display(f"{scored if new else 'All tasks were already scored'}: {output}")
