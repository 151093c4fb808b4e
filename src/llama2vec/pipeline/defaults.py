"""What a run does when there is a corpus and nothing else; imports nothing, so that the command line can tell early."""

UNLABELLED = (
    "adapt={}",
    "pairs.from_corpus={}",
    "finetune={}",
    "finetune.contrastive.negatives=0",
    "encode={}",
    "index={}",
)
"""``llama2vec run --corpus CORPUS`` without a recipe, as ``--set`` would say it."""
