"""Files in and out: corpora, queries, sentence pairs, judgments and runs."""
