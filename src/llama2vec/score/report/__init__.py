"""Results as one self-contained HTML page with plots, and as tables for the terminal; never imports torch."""
