"""Queries written by an LLM: questions that passages without labels answer, as training examples."""
