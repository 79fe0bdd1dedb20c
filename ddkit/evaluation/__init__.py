"""What a set is worth: one student (`single`), or sets x networks x seeds with baselines (`tables`).

The last room before the commands: it distils baselines and relabels through the pipeline.
"""
