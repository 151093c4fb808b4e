"""Hard negatives for labeled examples."""
