"""Faster paths through a stock model in training; each gives the same numbers, and one switch turns all of them on."""
