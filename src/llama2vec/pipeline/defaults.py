"""What a run does when there is a corpus and nothing else; imports nothing, so that the command line can tell early."""

# What scored best without a label (docs/results.md): both prompts SELF, pairs of the corpus, BM25 beside the vectors.
UNLABELED = (
    "adapt={}",
    "pairs.from_corpus={}",
    "finetune={}",
    "finetune.encoder.query_prompt=self",
    "finetune.contrastive.negatives=0",
    "encode={}",
    "index.bm25=true",
)
"""``llama2vec run --corpus CORPUS`` without a recipe, as ``--set`` would say it."""
