"""Results to one self-contained page: HTML with plots, Markdown, JSON; never imports torch."""
