"""Is it the same vector there? Golden vectors held against any backend, and the cause named where they differ."""
