"""Every error that a user of llama2vec can meet.

The whole tree::

    Llama2VecError                   a mistake of the user's: one line that says what, where and what to do
    ├── ConfigError                  a recipe or a --set override that does not fit
    ├── OutputExistsError            an output is there already and --overwrite was not given
    ├── MissingDependencyError       an optional extra is not installed
    ├── DataError                    input that cannot be read as what it should be
    │   ├── CorpusFormatError        a corpus, query or sentence-pair file with a faulty line
    │   ├── ExampleFormatError       labeled training data with a faulty row
    │   ├── RunFormatError           a TREC run or qrels file with a faulty line
    │   └── EmptyCorpusError         nothing to work on
    ├── ModelError                   a model or tokenizer that cannot serve
    │   ├── ModelNotFoundError       no such folder, file or hub id
    │   ├── NotCausalError           the model is not a causal language model
    │   ├── TokenizerError           no EOS token, a prompt that does not fit, …
    │   ├── ContractError            the saved encoding contract does not match its hash or its model
    │   │   └── GoldenVectorsError   golden vectors are missing, damaged, or those of another contract
    │   └── BackendError             another program that is asked for vectors does not give them
    ├── TrainingError                training cannot start, or must stop
    │   └── EmptyTargetsError        no row of a batch has a token to predict
    ├── StoreError                   a vector store or index that cannot be used
    │   └── CorruptShardError        a shard is truncated or its checksum is wrong
    └── EvaluationError              runs and judgments that do not fit together

The command line prints the message of a :class:`Llama2VecError` on one line and exits with code 2.
"""

from __future__ import annotations


class Llama2VecError(Exception):
    """A mistake of the user's, told in one line: what is wrong, where, and what to do."""


class ConfigError(Llama2VecError):
    """A recipe or an override does not fit the schema."""


class OutputExistsError(Llama2VecError):
    """An output exists already and may not be replaced without ``--overwrite``."""


class MissingDependencyError(Llama2VecError):
    """An optional package is needed for what was asked."""


class DataError(Llama2VecError):
    """Input data cannot be read as what it should be."""


class CorpusFormatError(DataError):
    """A corpus, query or sentence-pair file has a faulty line."""


class ExampleFormatError(DataError):
    """Labeled training data has a faulty row."""


class RunFormatError(DataError):
    """A TREC run or qrels file has a faulty line."""


class EmptyCorpusError(DataError):
    """There is nothing to work on."""


class ModelError(Llama2VecError):
    """A model or tokenizer cannot serve."""


class ModelNotFoundError(ModelError):
    """No such folder, file or hub id."""


class NotCausalError(ModelError):
    """The model is not a causal language model."""


class TokenizerError(ModelError):
    """The tokenizer lacks what a prompt needs."""


class ContractError(ModelError):
    """The saved encoding contract does not match its hash or its model."""


class GoldenVectorsError(ContractError):
    """Golden vectors are missing, damaged, or those of another contract."""


class BackendError(ModelError):
    """Another program that is asked for vectors does not give them."""


class TrainingError(Llama2VecError):
    """Training cannot start, or must stop."""


class EmptyTargetsError(TrainingError):
    """No row of a batch has a token to predict."""


class StoreError(Llama2VecError):
    """A vector store or index cannot be used."""


class CorruptShardError(StoreError):
    """A shard is truncated or its checksum is wrong."""


class EvaluationError(Llama2VecError):
    """Runs and judgments do not fit together."""
