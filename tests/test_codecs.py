import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ddkit.core.serialization import to_plain
from ddkit.errors import FormatVersion, OptionError
from ddkit.format.codecs.fidelity import compared_logits, fidelity_sums, relative_error
from ddkit.format.codecs.interface import centred
from ddkit.format.codecs.registry import LabelDecoder, codec_names, find_codec
from ddkit.format.codecs.top import largest
from ddkit.pipeline.describing import fidelity

values = st.floats(-60, 60, width=32)
logits = arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(8, 12)), elements=values).map(centred)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
NAMES = ("fp16", "int8", "topk:3", "lowrank:4", "lowrank:5:i4+top2", "lowrank:3:f16", "sampled:40")


def encoded(name, z, seed=0):
    """(decoder, tensors) of logits [V,C]."""
    codec = find_codec(name)
    codec.check(z.shape[-1])
    decoder = LabelDecoder(codec, z.shape[-1], codec.fit(z))
    return decoder, codec.encode(z, decoder.shared, np.random.default_rng(seed))


def temperature_of(decoder):
    return decoder.codec.temperatures((20.0, 1.0))[0]


@pytest.mark.parametrize("name", NAMES)
@given(logits)
@settings(deadline=None, max_examples=40)
def test_tensors_are_laid_out_as_announced_valid_and_decode_to_every_class(name, z):
    decoder, tensors = encoded(name, z)
    layout = decoder.codec.layout(*z.shape)
    assert {key: (array.dtype, array.shape) for key, array in tensors.items()} == layout
    shared = {key: (array.dtype, array.shape) for key, array in decoder.shared.items()}
    assert shared == decoder.codec.shared_layout(z.shape[-1])
    assert decoder.codec.problem({key: array[None] for key, array in tensors.items()}, z.shape[-1], True) is None
    decoded = decoder.decode(tensors, temperature_of(decoder))
    assert decoded.shape == z.shape and decoded.dtype == np.float32 and np.isfinite(decoded).all()
    assert decoder.codec.bytes_per_view(z.shape[-1]) * len(z) == sum(array.nbytes for array in tensors.values())


@pytest.mark.parametrize("name", NAMES)
@given(logits, st.data())
@settings(deadline=None, max_examples=40)
def test_a_view_decodes_to_the_same_bits_whatever_is_decoded_with_it(name, z, data):
    decoder, tensors = encoded(name, z)
    t = temperature_of(decoder)
    whole = decoder.decode(tensors, t)
    order = np.array(data.draw(st.permutations(range(len(z)))))
    shuffled = decoder.decode({key: array[order] for key, array in tensors.items()}, t)
    for i, place in enumerate(order):
        alone = decoder.decode({key: array[place] for key, array in tensors.items()}, t)
        assert alone.tobytes() == whole[place].tobytes() == shuffled[i].tobytes()


@pytest.mark.parametrize("name", NAMES)
@given(logits)
@settings(deadline=None, max_examples=30)
def test_a_gpu_decodes_to_the_same_values(name, z):
    decoder, tensors = encoded(name, z)
    prepared = decoder.codec.prepared(decoder.shared)
    shared = {key: torch.from_numpy(array).to(DEVICE) for key, array in prepared.items()}
    there = LabelDecoder(decoder.codec, decoder.classes, prepared)
    assert there.on_gpu == (name not in ("topk:3", "sampled:40"))
    if there.on_gpu:
        found = there.decode_on_device(there.placed(tensors, DEVICE), shared)
        assert np.array_equal(found.cpu().numpy(), decoder.decode(tensors, temperature_of(decoder)))


def test_a_large_basis_decodes_to_the_same_bits_for_any_batch():
    rng = np.random.default_rng(0)
    z = centred((rng.normal(size=(400, 200)) @ rng.normal(size=(200, 500)) * 0.3).astype(np.float32))
    for name in ("lowrank:128", "lowrank:128:i4+top5", "lowrank:100:f16"):
        decoder, tensors = encoded(name, z)
        whole = decoder.decode(tensors)
        for size in (1, 7, 33):
            parts = [decoder.decode({k: a[i : i + size] for k, a in tensors.items()}) for i in range(0, 400, size)]
            assert np.concatenate(parts).tobytes() == whole.tobytes(), (name, size)


@given(logits)
@settings(deadline=None)
def test_fp16_is_within_its_bound(z):
    decoder, tensors = encoded("fp16", z)
    error = np.abs(decoder.decode(tensors).astype(np.float64) - z)
    assert (error <= np.maximum(np.abs(z) * 2.0**-11, 2.0**-25)).all()


@given(logits)
@settings(deadline=None)
def test_int8_is_within_half_a_step(z):
    decoder, tensors = encoded("int8", z)
    step = tensors["scale"].astype(np.float64)[:, None]
    assert (step <= np.abs(z).max(axis=-1, keepdims=True) / 127 * (1 + 2.0**-10) + 2.0**-24).all()
    assert (np.abs(decoder.decode(tensors) - z.astype(np.float64)) <= step * (0.5 + 1e-5)).all()


@given(logits, st.integers(1, 8))
@settings(deadline=None)
def test_the_largest_logits_are_exact_and_first(z, k):
    top, index = largest(z, k)
    for view in range(len(z)):
        half = z[view].astype(np.float16)
        order = sorted(range(len(half)), key=lambda c: (-half[c], c))
        assert index[view].tolist() == order[:k] and top[view].tolist() == half[order[:k]].tolist()


@pytest.mark.parametrize("name", ["topk:3", "lowrank:2+top3", "lowrank:2:i4+top1"])
@given(logits)
@settings(deadline=None)
def test_kept_logits_are_exact_and_no_other_is_larger(name, z):
    decoder, tensors = encoded(name, z)
    decoded, half = decoder.decode(tensors), z.astype(np.float16).astype(np.float32)
    index = tensors["index"].astype(int)
    kept = np.take_along_axis(half, index, -1)
    assert (np.take_along_axis(decoded, index, -1) == kept).all()
    others = np.ones_like(z, bool)
    np.put_along_axis(others, index, False, -1)
    assert (decoded <= np.where(others, kept[:, -1:], kept[:, :1])).all()
    unique = (kept[:, 0] != 0) & ((half == kept[:, :1]).sum(-1) == 1)
    assert (decoded.argmax(-1) == index[:, 0])[unique].all()


@given(logits)
@settings(deadline=None)
def test_topk_keeps_the_rest_s_share_at_the_temperature_asked_for(z):
    z = z / 10  # the rule is of second order: it holds where logits are small beside the temperature
    decoder, tensors = encoded("topk:3", z)
    decoded = decoder.decode(tensors, 20.0).astype(np.float64)
    rest = np.ones_like(z, bool)
    np.put_along_axis(rest, tensors["index"].astype(int), False, -1)
    for own, other, mask in zip(z, decoded, rest):
        assert np.exp(other[mask] / 20).sum() == pytest.approx(np.exp(own[mask] / 20.0).sum(), rel=5e-3)


def test_a_full_basis_loses_only_the_rounding_of_its_codes():
    rng = np.random.default_rng(1)
    z = centred(rng.normal(size=(300, 12)).astype(np.float32) * 3)
    for name, bound in (("lowrank:12", 0.1), ("lowrank:12:f16", 0.02), ("lowrank:12:i4", 2.0)):
        decoder, tensors = encoded(name, z)
        steps = np.linalg.norm(decoder.shared["scale"].astype(float))
        error = np.abs(decoder.decode(tensors) - z)
        assert error.mean() < bound * 0.5 and (name.endswith(("f16", "i4")) or error.max() <= steps), name


def test_fewer_bytes_mean_a_larger_error():
    rng = np.random.default_rng(2)
    z = centred((rng.normal(size=(500, 10)) @ rng.normal(size=(10, 40)) + rng.normal(size=(500, 40))).astype("f4"))
    pairs = (
        *(("fp16", "int8"), ("int8", "lowrank:16"), ("lowrank:16", "lowrank:8"), ("lowrank:8", "lowrank:8:i4")),
        *(("topk:20", "topk:5"), ("lowrank:8+top3", "lowrank:8")),
    )
    for better, worse in pairs:
        errors = []
        for name in (better, worse):
            decoder, tensors = encoded(name, z)
            errors.append(relative_error(z, decoder.decode(tensors), 4.0))
        assert errors[0] < errors[1], (better, worse, errors)


def test_samples_are_unbiased_and_refuse_other_temperatures():
    z = centred(np.array([[2.0, 1.0, 0.0, -1.0, 0.5]], np.float32))
    p = np.exp(z) / np.exp(z).sum()
    total = np.zeros_like(p)
    for seed in range(400):
        decoder, tensors = encoded("sampled:30", z, seed)
        decoded = decoder.decode(tensors, 1.0)
        total += np.exp(decoded)
        assert np.exp(decoded).sum() == pytest.approx(1, abs=1e-5)
    assert np.abs(total / 400 - p).max() < 4 * np.sqrt(0.25 / (400 * 30))
    with pytest.raises(OptionError, match="temperature 1, not 20"):
        decoder.decode(tensors, 20.0)


@pytest.mark.parametrize("name", NAMES)
def test_labels_of_slightly_other_logits_agree_and_those_of_another_view_do_not(name):
    rng = np.random.default_rng(3)
    z = centred(rng.normal(size=(64, 10)).astype(np.float32) * 4)
    decoder, tensors = encoded(name, z)
    t = temperature_of(decoder)
    again = decoder.codec.encode(centred(z * (1 + 1e-6)), decoder.shared, np.random.default_rng(5))
    stored, computed = decoder.decode(tensors, t), decoder.decode(again, t)
    assert decoder.codec.agree(stored, computed).mean() > 0.95
    assert decoder.codec.agree(stored, np.roll(computed, 1, axis=0)).mean() < 0.4


def damaged(name, key, change):
    z = centred(np.random.default_rng(0).normal(size=(3, 9)).astype(np.float32))
    decoder, tensors = encoded(name, z)
    array = tensors[key][None].copy()
    array[0, 1] = change(array[0, 1])
    return decoder.codec.problem({k: v[None] for k, v in tensors.items()} | {key: array}, 9, False)


@pytest.mark.parametrize(
    "name, key, change, said",
    [
        ("fp16", "logits", lambda row: row * np.float16(np.inf), "not finite"),
        ("fp16", "logits", lambda row: row + np.float16(1), None),  # found by a thorough check
        ("int8", "scale", lambda row: -row, "scale"),
        ("topk:3", "index", lambda row: row * 0 + 9, "not one of the 9"),
        ("topk:3", "index", lambda row: row * 0, "two logits"),
        ("topk:3", "top", lambda row: row[::-1], "descending"),
        ("topk:3", "rest_var", lambda row: row - 100, "rest_"),
        ("lowrank:3:f16", "code", lambda row: row * np.float16(np.nan), "not finite"),
        ("lowrank:3+top2", "top", lambda row: row * np.float16(np.nan), "not finite"),
        ("sampled:9", "index", lambda row: row + 9, "not one of the 9"),
        ("sampled:9", "count", lambda row: row + 1, "add up to 9"),
    ],
)
def test_invalid_labels_are_found(name, key, change, said):
    problem = damaged(name, key, change)
    assert problem is None if said is None else said in problem


def test_centred_never_gives_infinity():
    z = centred(np.array([[1e9, -1e9, 0.0]], np.float32))
    assert np.isfinite(find_codec("fp16").encode(z, {}, np.random.default_rng())["logits"]).all()


def summed(sums):
    return fidelity([sums.tolist()])


@given(logits)
@settings(deadline=None)
def test_fidelity_of_the_same_logits_is_perfect(z):
    found = summed(compared_logits(z, z))
    assert found.top1_agreement == 1 and found.kl_t1 < 1e-9
    assert set(to_plain(found)) == {"kl_t1", "kl_t4", "kl_t20", "top1_agreement"}


def test_fidelity_by_hand():
    z, q = np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]])
    p = np.exp(z[0]) / np.exp(z[0]).sum()
    found = summed(compared_logits(z, q))
    assert found.kl_t1 == pytest.approx((p * (np.log(p) - np.log(p[::-1]))).sum())
    assert found.top1_agreement == 0


def test_fidelity_names_no_divergence_where_there_are_no_labels():
    z = centred(np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32))
    decoder, tensors = encoded("sampled:200", z)
    found = summed(fidelity_sums(z, decoder.codec, tensors, decoder.shared))
    assert found.kl_t20 is None and found.kl_t4 is None and found.kl_t1 > 0


@pytest.mark.parametrize(
    "name, canonical",
    [("lowrank:32", "lowrank:32"), ("lowrank:32:i8", "lowrank:32"), ("lowrank:32:i8+top5", "lowrank:32+top5"),
     ("lowrank:32:i4+top5", "lowrank:32:i4+top5"), ("topk:100", "topk:100"), ("teacher", "teacher")],
)  # fmt: skip
def test_names_have_one_spelling(name, canonical):
    assert find_codec(name).name == canonical and find_codec(find_codec(name).name) == find_codec(name)


@pytest.mark.parametrize(
    "name, said",
    [
        ("fp17", "fp16"), ("topk", "topk:100"), ("topk:0", "whole number"), ("topk:x", "whole number"),
        ("fp16:2", "no param"), ("lowrank:8:i2", "lowrank:32:i4"), ("lowrank:8+top0", "K is '0'"),
        ("sampled:256", "255"), ("", "unknown codec"),
    ],
)  # fmt: skip
def test_unknown_codecs_and_parameters_are_refused(name, said):
    with pytest.raises(OptionError, match=said):
        find_codec(name)
    with pytest.raises(FormatVersion, match="newer ddkit"):
        find_codec(name, stored=True)


def test_parameters_above_the_number_of_classes_are_refused():
    for name in ("topk:11", "lowrank:11", "lowrank:5+top11"):
        with pytest.raises(OptionError, match="above the 10 classes; use at most 10"):
            find_codec(name).check(10)


def test_every_codec_is_listed():
    assert {"fp16", "int8", "topk:K", "lowrank:R[:i4|i8|f16][+topK]", "sampled:K", "teacher"} == set(codec_names())


def test_a_carried_teacher_stores_nothing():
    codec = find_codec("teacher")
    assert codec.layout(3, 5) == {} and codec.bytes_per_view(5) == 0
    with pytest.raises(OptionError, match="teacher instead of labels|stores no labels"):
        codec.decode({}, 5, 20.0, {})
