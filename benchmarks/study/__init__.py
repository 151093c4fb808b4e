"""The study: does adaptation help, which part of it, after how many steps, and how many labels replace it?

A *cell* is one model with its scores: its pretext tasks, recipe, steps and seed, and the stage that followed. A
*budget* is a frozen protocol, a file in ``budgets/``. Only cells of the same budget are compared. Modules::

    protocol     what a budget fixes for all of its cells
    cells        the cells of a budget, most informative first
    pairs        the pairs for fine-tuning: the same ones, with the same negatives, for every adaptation
    models       adapt and fine-tune, or reuse a trained model
    sets         the samples to search, and the score of a system on them
    run          one cell: train, score set by set
    results      the one results file: merging, missing cells, contradictions
    estimates    how long a cell will take on this machine
    comparisons  which arm is better, with paired tests
    tables, plots, report, command
"""
