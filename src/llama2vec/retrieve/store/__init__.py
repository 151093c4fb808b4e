"""Vectors and passages on the disk, and how they are made."""
