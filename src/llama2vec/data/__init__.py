"""Files in and out: corpora, queries, sentence pairs, judgements and runs."""
