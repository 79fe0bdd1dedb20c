import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ddkit.core.serialization import to_plain
from ddkit.errors import FormatVersion, OptionError
from ddkit.format.codecs import codec_names, fidelity_sums, find_codec
from ddkit.pipeline.describing import fidelity

logits = arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(2, 12)), elements=st.floats(-60, 60, width=32))


@given(logits)
@settings(deadline=None)
def test_fp16_is_within_its_bound(z):
    codec = find_codec("fp16")
    tensors = codec.encode(z)
    assert set(tensors) == set(codec.TENSORS) and tensors["logits"].dtype == np.float16
    centred = z.astype(np.float64) - z.astype(np.float64).mean(-1, keepdims=True)
    error = np.abs(codec.decode(tensors) - centred)
    assert (error <= np.maximum(np.abs(centred) * 2.0**-11, 2.0**-25) + 1e-4 * np.abs(z).max() * 1e-2 + 1e-6).all()


def test_fp16_never_stores_infinity():
    z = np.array([[1e9, -1e9, 0.0]], np.float32)
    assert np.isfinite(find_codec("fp16").encode(z)["logits"]).all()


@given(logits)
@settings(deadline=None)
def test_fidelity_of_the_same_logits_is_perfect(z):
    facts = fidelity(fidelity_sums(z, z))
    assert facts.top1_agreement == 1 and facts.kl_t1 < 1e-9
    assert set(to_plain(facts)) == {"kl_t1", "kl_t4", "kl_t20", "top1_agreement"}


def test_fidelity_by_hand():
    z, q = np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]])
    p = np.exp(z[0]) / np.exp(z[0]).sum()
    facts = fidelity(fidelity_sums(z, q))
    assert facts.kl_t1 == pytest.approx((p * (np.log(p) - np.log(p[::-1]))).sum())
    assert facts.top1_agreement == 0


def test_unknown_codecs():
    with pytest.raises(OptionError, match="fp16"):
        find_codec("fp17")
    with pytest.raises(FormatVersion, match="newer ddkit"):
        find_codec("quantum", stored=True)
    assert list(codec_names()) == ["fp16"]
