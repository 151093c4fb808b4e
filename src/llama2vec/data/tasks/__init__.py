"""What evaluation reads: BEIR tasks, judgments, sentence pairs with scores."""
