"""Seeded attacks on every verb: kills, damaged files, bad invocations, full disks.

``python -m tests.attacks --kills 600 --damages 700 --invocations 600 --disk-full 300 --seed 0`` runs the large harness;
``make test`` runs a cut of it. Every attack follows from its seed, its kind and its number alone, so that
``--only kills:17`` repeats one.
"""
