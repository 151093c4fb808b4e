"""What is found: scores on test sets, and what training, labels, layers and bytes do to them."""
