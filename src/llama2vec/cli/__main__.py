"""``python -m llama2vec.cli`` is the same as ``llama2vec``."""

from llama2vec.cli import main

main()
