"""Faster paths through a stock model; each gives the same numbers."""
