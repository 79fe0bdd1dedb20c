"""Signatures that tell files of this user from files that came with another user's set."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from ddkit.core.files import cache_dir, read_sealed, write_sealed
from ddkit.errors import DdkitError


def sign(text: str) -> str:
    """Sign a text with a key that only this user has.

    The signature distinguishes files that this user wrote from files that came with another user's set. The key is
    kept in the cache directory.

    Args:
        text: The text to sign.

    Returns:
        The HMAC-SHA256, in hex; "", which `is_signed` rejects, if no key can be stored.
    """
    path = cache_dir() / "signing-key"
    key = read_sealed(path)
    if key is None:
        try:
            write_sealed(path, secrets.token_bytes(32))
            path.chmod(0o600)
        except (DdkitError, OSError):
            return ""
        key = read_sealed(path)
    return "" if key is None else hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def is_signed(text: str, signature: str) -> bool:
    """Return whether this user signed a text.

    Args:
        text: The text.
        signature: What `sign` returned for it.
    """
    return bool(signature) and hmac.compare_digest(sign(text), signature)
