"""The study: does adaptation help, which part of it, after how many steps, and how many labels make up for it?

A *cell* is one model and its scores: what it was adapted with, which recipe, how many steps, which seed, and what came
after. A *budget* is a frozen protocol, a file of ``budgets/``. Cells of one budget are compared, of two never. Rooms::

    protocol     what a budget fixes for all of its cells
    cells        which cells there are, in order of worth
    pairs        the pairs that fine-tuning reads: the same ones, with the same negatives, for every adaptation
    models       adapt and fine-tune, or find again what was trained
    sets         the searched samples, and how a system is scored on them
    run          one cell: train, score set by set
    results      the one results file: what is there, what is missing, what contradicts
    estimates    how long a cell will take here
    comparisons  which arm is better, and whether that was luck
    tables, plots, report, command
"""
