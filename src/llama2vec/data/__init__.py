"""Files in and out: documents, corpora, tasks of evaluation, training examples."""
