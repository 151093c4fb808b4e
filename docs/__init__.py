"""Pages, and what writes parts of them: ``python -m docs.results_tables`` from the root of the checkout."""
