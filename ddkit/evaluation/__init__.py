"""Evaluates sets: one student (`students`), or sets x networks x seeds with baselines (`tables`).

Only the commands depend on this package; it distils baselines and relabels sets through the pipeline.
"""
