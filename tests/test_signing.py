"""Signatures are of this user alone."""

from ddkit.core.signing import is_signed, sign


def test_a_signature_is_this_users(tmp_path, monkeypatch):
    monkeypatch.setenv("DDKIT_CACHE", str(tmp_path / "a"))
    mine = sign("text")
    assert is_signed("text", mine) and not is_signed("other", mine) and not is_signed("text", "")
    assert (tmp_path / "a" / "signing-key").stat().st_mode & 0o77 == 0
    monkeypatch.setenv("DDKIT_CACHE", str(tmp_path / "b"))
    assert not is_signed("text", mine)
    monkeypatch.setenv("DDKIT_CACHE", "/proc/none")
    assert sign("text") == "" and not is_signed("text", "")
