"""Saved encoders in other people's libraries."""
