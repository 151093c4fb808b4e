"""The command line: one thin command per verb."""

from __future__ import annotations

import importlib
import logging
import math
import os
import re
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from llama2vec.errors import ConfigError, Llama2VecError, too_large
from llama2vec.files import is_disk_full
from llama2vec.terminal import PlainFormatter, is_first_process, plain_terminal, printable_line

COMMAND_GROUPS = {
    "Search": {
        "ask": "Answer a question from a folder of documents.",
        "sync": "Keep an index in step with a folder.",
        "remove": "Remove documents from an index that `sync` made.",
        "search": "Search an index.",
        "serve": "Serve embeddings and search over HTTP.",
        "explain": "Show which words make two texts match.",
    },
    "Train": {
        "run": "Run every stage of a recipe.",
        "adapt": "Turn a causal LLM into an encoder.",
        "finetune": "Train an encoder on queries and passages.",
        "check": "Report every problem in training data.",
        "generate": "Generate questions for passages with an LLM.",
        "mine": "Find hard negatives.",
    },
    "Steps of an index": {
        "read": "Read documents into a corpus of passages.",
        "encode": "Encode a corpus into a vector store.",
        "index": "Build an index over a vector store.",
        "distill": "Fit a table that encodes queries without the model.",
    },
    "Evaluate": {
        "evaluate": "Score models on retrieval and STS tasks.",
        "rerank": "Rerank a run with a cross-encoder.",
        "compare": "Test whether one run beats another.",
        "report": "Write scores and curves to one HTML page.",
    },
    "Models": {
        "verify": "Check a model's vectors in another program.",
        "compact": "Save an encoder as a small difference from its LLM.",
        "export": "Export an encoder or a store to other programs.",
        "card": "Write a model card with scores.",
    },
    "Recipes": {
        "init": "Write a recipe from an earlier run.",
        "recipes": "List or show the recipes that ship with llama2vec.",
    },
}
"""Heading in the help → name → what it does."""

COMMANDS = {name: what for group in COMMAND_GROUPS.values() for name, what in group.items()}

_RESUMABLE = frozenset({"ask", "run", "adapt", "finetune", "generate", "encode", "sync", "rerank"})
"""Commands that always keep what they have done; `evaluate` and `mine` do with some options."""


def _usable_number(_: Any, __: Any, value: Any) -> Any:
    """Refuse NaN, infinity, and counts beyond what the libraries below can count with."""
    if isinstance(value, float) and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    if isinstance(value, int) and (problem := too_large(value)):
        raise typer.BadParameter(problem)
    return value


class _Commands(TyperGroup):
    """Imports a command's module only when the command is used, so that help comes at once."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.commands: dict[str, Any] = dict.fromkeys(COMMANDS)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, name: str) -> Any:
        if name in COMMANDS and self.commands[name] is None:
            module = importlib.import_module(f"llama2vec.cli.{name}")
            alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
            alone.command(name)(getattr(module, f"{name}_command"))
            self.commands[name] = typer.main.get_command(alone)
            for option in self.commands[name].params:
                option.callback = option.callback or _usable_number
        return self.commands.get(name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(map(len, COMMANDS))  # One column for the texts of all groups
        for heading, group in COMMAND_GROUPS.items():
            with formatter.section(heading):
                formatter.write_dl([(name.ljust(width), what) for name, what in group.items()])


app = typer.Typer(
    name="llama2vec",
    cls=_Commands,
    help="Turn any causal LLM into a dense retriever (Llama2Vec, arXiv 2312.15503).",
    no_args_is_help=True,
    # With color, click passes control sequences on, and the terminal's stream shows them; without, it would drop them.
    context_settings={"help_option_names": ["-h", "--help"], "color": True},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_INTERRUPTED, _BROKEN_PIPE = 130, 1
_LONG_WORD = re.compile(r"\S{400,}")
_UsageError: Any = typer.BadParameter.__base__  # Typer brings its own copy of click, or takes the installed one
_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
_NO_MEMORY = "lower batch or shard sizes, depth or lengths, or take a machine with more memory"
_LESS_MEMORY = {
    "adapt": "objective.micro_batch_tokens",
    "finetune": "contrastive.graph_tokens and contrastive.micro_batch_tokens",
    "run": "adapt.objective.micro_batch_tokens, finetune.contrastive.graph_tokens and "
    "finetune.contrastive.micro_batch_tokens",
}
"""The settings by which a training takes less memory and ends with the same weights."""
_OF_CUDA = re.compile(r"(CUDA out of memory)\.(?: (Tried to allocate [\d.]+ \w+))?")


def _print_version(wanted: bool) -> None:
    if wanted:
        from llama2vec import __version__

        typer.echo(f"llama2vec {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None: ...


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's mistake is one line on stderr and exit code 2."""
    # The notices and progress bars of transformers would drown ours.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    given = sys.argv[1:] if arguments is None else arguments
    with plain_terminal():
        _log_to_stderr()
        try:
            _refuse_undecodable(given)
            try:
                code = _run(given)
            finally:
                # A full disk or a closed pipe shows here, and not while the interpreter shuts down.
                sys.stdout.flush()
            sys.exit(code)
        except Llama2VecError as error:
            _fail(" ".join(str(error).split()))
        except KeyboardInterrupt:
            print(f"interrupted{'; rerun the same command to resume' if _resumes(given) else ''}", file=sys.stderr)
            sys.exit(_INTERRUPTED)
        except MemoryError:
            _fail(_memory_line(given))
        except BrokenPipeError:
            # Whoever read our output has seen enough, as with `| head`. Nothing may be written to the pipe at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.exit(_BROKEN_PIPE)
        except RuntimeError as error:
            # torch has no type for this error on a CPU.
            if any(words in str(error) for words in _OF_MEMORY):
                _fail(_memory_line(given, str(error)))
            # What pathlib raised before Python 3.13; since then it is an OSError.
            if not str(error).startswith("Symlink loop"):
                raise
            _fail(f"{error}: this link leads back to itself; name another path")
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            remedy = "free space" if is_disk_full(error) else "check permissions and disk"
            _fail(f"{where}{error.strerror or error}; {remedy}, then rerun the same command")


def _run(arguments: list[str]) -> int:
    """Run the command and return its exit code; a mistake in its options is a ConfigError."""
    try:
        code = app(args=arguments, prog_name="llama2vec", standalone_mode=False)
    except _UsageError as error:
        if not error.args or type(error).__name__ == "NoArgsIsHelpError":
            error.show()
            return 2
        option, problem = _option_and_problem(error.format_message())
        if problem.startswith("Input should") and (value := _value_of(option, arguments)):
            option = f"{option} {value}"
        where = error.ctx.command_path if error.ctx else "llama2vec"
        named = f"{option}: " if option else ""
        raise ConfigError(f"{named}{problem[:1].lower()}{problem[1:]}; see `{where} --help`") from None
    except typer.Abort:
        return 1
    if code == _INTERRUPTED:  # how typer returns Ctrl-C
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


def _verb(arguments: Sequence[str]) -> str:
    return next((argument for argument in arguments if argument in COMMANDS), "")


def _memory_line(arguments: Sequence[str], message: str = "") -> str:
    """Say what takes less memory, and how much CUDA wanted.

    >>> _memory_line(["encode", "m", "c"], "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 8 GiB.")[-60:]
    'more memory (CUDA out of memory: Tried to allocate 2.00 GiB)'
    """
    settings, found = _LESS_MEMORY.get(_verb(arguments)), _OF_CUDA.search(message)
    remedy = (
        f"for training, lower {settings}, or set model.gradient_checkpointing to true: the same command with these "
        "changes then resumes; otherwise "
    )
    reason = f" ({': '.join(filter(None, found.groups()))})" if found else ""
    return f"the memory is full; {remedy if settings else ''}{_NO_MEMORY}{reason}"


def _resumes(arguments: Sequence[str]) -> bool:
    """Return whether rerunning an interrupted command resumes what it began.

    >>> [_resumes(call.split()) for call in ("encode m c -o s", "evaluate m --task t", "evaluate m --task t -o out")]
    [True, False, True]
    """

    def given(*options: str) -> bool:
        return any(argument.startswith(options) for argument in arguments)

    verb = _verb(arguments)
    if verb == "evaluate":
        return given("-o", "--output", "stores=")
    if verb == "mine":
        return given("--teacher", "mine.teacher=") or (given("--model") and not given("--store"))
    return verb in _RESUMABLE


def _option_and_problem(message: str) -> tuple[str, str]:
    """Split what click says into the option and what is wrong with it.

    >>> _option_and_problem("Invalid value for '--depth': 0 is not in the range x>=1.")
    ('--depth', '0 is not in the range x>=1')
    """
    message = message.replace("Value error, ", "").rstrip(".")
    found = re.fullmatch(r"Invalid value for '([^']+)': (.+)", message, re.DOTALL)
    return (found[1], found[2]) if found else ("", message)


def _value_of(option: str, arguments: Sequence[str]) -> str:
    """Return what the command line gives to an option, which the checks of numbers leave out of their messages.

    >>> _value_of("--depth", ["search", "--depth", "0"]), _value_of("--depth", ["--depth=0"])
    ('0', '0')
    """
    for place, argument in enumerate(arguments, start=1):
        if argument == option and place < len(arguments):
            return arguments[place]
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2]
    return ""


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainFormatter("%(message)s"))
    logging.basicConfig(level=logging.INFO if is_first_process() else logging.WARNING, handlers=[handler])
    for noisy in ("httpx", "datasets", "accelerate", "bm25s", "faiss", "matplotlib", "gguf", "onnxscript", "onnx_ir"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # It warns of a kernel that only encoding over 4-bit weights on a CPU would use.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)


def _refuse_undecodable(arguments: Sequence[str]) -> None:
    for number, argument in enumerate(arguments, start=1):
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise ConfigError(
                f"argument {number} is not valid UTF-8: {argument!a}; check the terminal's encoding"
            ) from None


def _fail(message: str) -> None:
    # A value of thousands of characters would bury what is wrong with it.
    readable = _LONG_WORD.sub(lambda word: f"{word[0][:100]}…{word[0][-100:]}", message)
    print(f"llama2vec: {printable_line(readable)}", file=sys.stderr)
    sys.exit(2)
