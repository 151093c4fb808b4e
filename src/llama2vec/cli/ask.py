"""``llama2vec ask``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llama2vec.cli.answers import Answers, check_question
from llama2vec.cli.options import READ_MODEL_KEYS, EncoderLoading, Where, model_settings, model_spec, set_option
from llama2vec.cli.settings_options import lists_settings, options_from
from llama2vec.cli.sync import print_report
from llama2vec.config import load_config
from llama2vec.errors import OutputBusyError
from llama2vec.retrieve.syncing.following import Following, SyncSettings
from llama2vec.retrieve.syncing.library import Library
from llama2vec.terminal import counted, display, printable_line

if TYPE_CHECKING:
    from llama2vec.retrieve.search.retriever import Retriever
    from llama2vec.retrieve.syncing.library import SyncReport

READY_MODEL = "llama2vec-smollm2-135m"


@options_from(EncoderLoading, "loading", panel="Model")
@lists_settings(SyncSettings, READ_MODEL_KEYS)
def ask_command(
    loading: EncoderLoading,
    folder: Annotated[Path, typer.Argument(help="Folder of documents, at any depth; or one document.")],
    question: Annotated[str | None, typer.Argument(help="Omit for an interactive prompt.")] = None,
    depth: Annotated[int, typer.Option(min=1, help="Documents to show.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    opens: Annotated[bool, typer.Option("--open", help="Open the file of the best answer.")] = False,
    where: Where = None,
    words: Annotated[
        bool, typer.Option("--words", help="Use BM25 only, without the model; a new index gets no vectors.")
    ] = False,
    model: Annotated[str, typer.Option(help="Encoder for the vectors.")] = READY_MODEL,
    index: Annotated[Path | None, typer.Option(help="Folder for the index; default: in your cache.")] = None,
    sets: Annotated[list[str] | None, set_option("language=de; remembered for later calls")] = None,
) -> None:
    """Answer a question from a folder of documents; reads, indexes and searches it in one command.

    The first call answers with BM25 as soon as it has read the folder, then encodes it and answers with BM25 and
    vectors. Later calls read and encode only what changed. Ctrl-C keeps finished vectors; rerun the same command to
    resume.
    """
    check_question(question, "ask FOLDER", as_json=as_json, opens=opens)
    from llama2vec.retrieve.index.filters import check_filter
    from llama2vec.retrieve.search.retriever import Retriever
    from llama2vec.retrieve.syncing.library import index_in_cache

    if where is not None:
        check_filter(where)
    spec = model_spec(model, loading.prompts)
    # By the whole path: two folders of models may have one name.
    home = index or index_in_cache(folder, " ".join(filter(None, [spec.name or spec.path, loading.prompts])))
    how, others = model_settings(loading.dtype, loading.device, sets)
    settings = load_config(SyncSettings, None, others)

    answered = list[int]()

    def answer_by_words(report: SyncReport) -> None:
        if question is not None and not as_json:
            display(f"BM25 results from {counted(report.passages, 'passage')}:")
            Answers(_by_words(home), "bm25", where).to(question, depth)
            display("\nEncoding the passages to search with vectors too; Ctrl-C keeps finished vectors.", err=True)
            answered.append(report.passages)

    following = Following(
        folder, home, None if words else spec, how, settings, words_only=words, on_words=answer_by_words
    )
    _sync(following, home)
    retriever = _by_words(home) if words else Retriever.open(home, device=loading.device, dtype=loading.dtype)
    answers = Answers(retriever, where=where)
    if question is None:
        answers.to_each(depth)
        return
    if answered and answers.mode_now() == "bm25":  # Another call makes the vectors; BM25 has given all there is
        if opens:
            answers.open(question)
        return
    if answered:
        display("\nBM25 and vectors together:")
    answers.to(question, depth, as_json=as_json, opens=opens)


def _sync(following: Following, home: Path) -> None:
    started = time.monotonic()
    try:
        report = following.sync()
        if report.is_new:
            print_report(report, home, time.monotonic() - started, err=True)
    except OutputBusyError as error:
        if not Library(home).exists:
            raise  # The first call is still reading, so nothing can answer yet
        # Another call makes vectors; what is there already answers.
        display(f"{printable_line(str(error))}; answering from its current state", err=True)


def _by_words(home: Path) -> Retriever:
    """Open an index for BM25 alone."""
    from llama2vec.retrieve.index.folder import open_bm25, open_fields, open_index
    from llama2vec.retrieve.search.retriever import Retriever

    index = open_index(home)
    return Retriever(index, None, bm25=open_bm25(home, index.store), fields=open_fields(home, index.store))
