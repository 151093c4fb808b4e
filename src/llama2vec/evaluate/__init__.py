"""Runs and similarities to scores, intervals and tables; never imports torch."""
