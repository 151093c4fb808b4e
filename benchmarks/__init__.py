"""Measurements against peers; each runs from the root of the checkout, as ``python -m benchmarks.quality.hybrid``."""
