"""The Hugging Face Hub: lists, fetches, uploads and commits files.

The only package that imports `huggingface_hub`; it is independent of the format of distilled sets.
"""

from ddkit.hub.eval_results import EVAL_RESULTS, eval_results
from ddkit.hub.repositories import (
    Content,
    Remote,
    RemoteFile,
    Upload,
    check_repo,
    commit_of,
    create,
    create_branch,
    fetch,
    find,
    head,
    licence,
    merge_request,
    open_request,
    parse_id,
    remote,
    same,
    set_gated,
    split_id,
    tag,
    tags,
    whoami,
)
from ddkit.hub.retries import StaleParent, pause, url, with_retries

__all__ = [
    "EVAL_RESULTS",
    "Content",
    "Remote",
    "RemoteFile",
    "StaleParent",
    "Upload",
    "check_repo",
    "commit_of",
    "create",
    "create_branch",
    "eval_results",
    "fetch",
    "find",
    "head",
    "licence",
    "merge_request",
    "open_request",
    "parse_id",
    "with_retries",
    "pause",
    "remote",
    "same",
    "set_gated",
    "split_id",
    "tag",
    "tags",
    "url",
    "whoami",
]
