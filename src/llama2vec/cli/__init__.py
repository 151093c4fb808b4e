"""The command line: one thin command per verb."""

from __future__ import annotations

import logging
import os
import sys

import typer

from llama2vec.cli import (
    adapt,
    card,
    check,
    compare,
    encode,
    evaluate,
    explain,
    finetune,
    index,
    mine,
    report,
    run,
    search,
    serve,
    verify,
)
from llama2vec.errors import Llama2VecError

app = typer.Typer(
    name="llama2vec",
    help="Turn any causal LLM into a dense retriever (Llama2Vec, arXiv 2312.15503).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command("run")(run.run_command)
app.command("adapt")(adapt.adapt_command)
app.command("finetune")(finetune.finetune_command)
app.command("check")(check.check_command)
app.command("mine")(mine.mine_command)
app.command("encode")(encode.encode_command)
app.command("index")(index.index_command)
app.command("search")(search.search_command)
app.command("explain")(explain.explain_command)
app.command("serve")(serve.serve_command)
app.command("evaluate")(evaluate.evaluate_command)
app.command("compare")(compare.compare_command)
app.command("report")(report.report_command)
app.command("verify")(verify.verify_command)
app.command("card")(card.card_command)

_INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    # transformers' own notices and bars would bury ours.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    first = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.INFO if first else logging.WARNING, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "datasets", "accelerate", "bm25s", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        app(args=arguments)
    except Llama2VecError as error:
        _fail(" ".join(str(error).split()))
    except (KeyboardInterrupt, SystemExit) as stop:
        # Typer turns Ctrl-C into this exit code and says nothing.
        if isinstance(stop, SystemExit) and stop.code != _INTERRUPTED:
            raise
        print("interrupted; run the same command again to go on", file=sys.stderr)
        sys.exit(_INTERRUPTED)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _fail(f"{where}{error.strerror or error}; free space or check permissions, then run the same command again")


def _fail(message: str) -> None:
    print(f"llama2vec: {message}", file=sys.stderr)
    sys.exit(2)
