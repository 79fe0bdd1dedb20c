"""Evaluation results of a model repository, which the Hub shows on its page and on the dataset's leaderboard."""

from __future__ import annotations

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

EVAL_RESULTS = ".eval_results/ddkit.yaml"


def eval_results(dataset: str, task: str, value: float, notes: str) -> bytes:
    """Return the content of EVAL_RESULTS for one accuracy.

    Args:
        dataset: Hub id of the dataset that the model was measured on.
        task: The task within it: its split.
        value: Accuracy in percent.
        notes: How it was measured.
    """
    entry = EvalResultEntry(dataset_id=dataset, task_id=task, value=value, notes=notes)
    return str(yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False)).encode()
