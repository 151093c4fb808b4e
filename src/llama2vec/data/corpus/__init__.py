"""Corpora: passages and queries from files, folders and hubs."""
