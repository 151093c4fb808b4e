"""Every error that a user of llama2vec can get.

The command line prints the message of a :class:`Llama2VecError` on one line and exits with code 2.
"""

from __future__ import annotations

import errno


class Llama2VecError(Exception):
    """A user's mistake, told in one line: what is wrong, where, and what to do."""


class ConfigError(Llama2VecError):
    """A recipe or an override is invalid."""


class SettingsError(ConfigError, ValueError):
    """Settings made in Python are invalid."""


class FilterError(ConfigError):
    """A filter is not an expression over the fields of the passages."""


class OutputExistsError(Llama2VecError):
    """An output exists and is replaced only with ``--overwrite``."""


class OutputBusyError(OutputExistsError):
    """Another process is writing the output."""


class MissingDependencyError(Llama2VecError):
    """The command needs an optional package that is not installed."""


class DataError(Llama2VecError):
    """Input data cannot be read in the expected format."""


class CorpusFormatError(DataError):
    """A corpus, query or sentence-pair file has a faulty line."""


class UnreadableError(DataError):
    """A document cannot be read; the message is the reason alone, which a table of skipped files names."""


class ExampleFormatError(DataError):
    """Labeled training data has a faulty row."""


class RunFormatError(DataError):
    """A TREC run or qrels file has a faulty line."""


class EmptyCorpusError(DataError):
    """The input holds no text."""


class InputChangedError(DataError):
    """An input is no longer what it was when the command took its fingerprint."""


class ModelError(Llama2VecError):
    """A model or tokenizer cannot be used."""


class NotFiniteError(ModelError):
    """The model gave NaN or infinite numbers."""


class ModelNotFoundError(ModelError):
    """The folder, file or hub id does not exist."""


class NotCausalError(ModelError):
    """The model is not a causal language model."""


class TokenizerError(ModelError):
    """The tokenizer lacks something that a prompt needs."""


class ContractError(ModelError):
    """The saved encoding contract does not match its hash or its model."""


class GoldenVectorsError(ContractError):
    """Golden vectors are missing, damaged, or belong to another contract."""


class BackendError(ModelError):
    """Another program did not return the requested vectors."""


class TrainingError(Llama2VecError):
    """Training cannot start, or must stop."""


class EmptyTargetsError(TrainingError):
    """No row of a batch has a token to predict."""


class StoreError(Llama2VecError):
    """A vector store or index cannot be used."""


class StoreReplacedError(StoreError):
    """A store or index was written again after it was opened."""


class CorruptShardError(StoreError):
    """A shard is truncated or its checksum is wrong."""


class EngineError(StoreError):
    """A vector database cannot be reached, or holds something else."""


class ClusterError(Llama2VecError):
    """A Ray cluster cannot be reached, has no room, or its workers differ."""


class EvaluationError(Llama2VecError):
    """Runs and judgments do not belong together."""


MOST = 2**31 - 1
"""The largest count that the libraries below can count with."""


def too_large(number: int) -> str:
    """Return what is wrong with a number beyond :data:`MOST`; nothing for any other.

    >>> too_large(-(2**31)), too_large(64)
    ('-2147483648 is too large; the limit is 2,147,483,647', '')
    """
    return f"{number} is too large; the limit is {MOST:,}" if abs(number) > MOST else ""


def raise_unless_missing(error: Exception) -> None:
    """Raise an error again with which the system refuses to read a file that is there, such as "Permission denied"."""
    missing = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)
    if isinstance(error, OSError) and error.errno not in missing:
        raise error


def one_line(error: BaseException, width: int = 160) -> str:
    """Return what another library's error says on one line of at most ``width`` characters, else its kind.

    >>> one_line(ValueError("no such node\\nin a cluster")), one_line(ValueError("too long"), 4), one_line(KeyError())
    ('no such node in a cluster', 'too…', 'KeyError')
    """
    text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return text if len(text) <= width else f"{text[: width - 1]}…"


def first_line(error: BaseException | None) -> str:
    """Return the first line of what another library's error says, or its kind where it says nothing.

    >>> first_line(ValueError("no such node\\nin a cluster")), first_line(KeyError())
    ('no such node', 'KeyError')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def last_line(error: BaseException) -> str:
    """Return the last line of what another library's error says, which in a traceback names the cause.

    >>> last_line(ValueError("The actor died.\\n  in __init__\\nModuleNotFoundError: No module named 'numpy'"))
    "ModuleNotFoundError: No module named 'numpy'"
    """
    return one_line(ValueError((str(error).strip().splitlines() or [type(error).__name__])[-1]))
