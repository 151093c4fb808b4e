"""Texts: their lines, their words, their length."""
