"""What a manifest says of a set, inferred from its packed shards."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ddkit.labelling.packing import PackRecord
from ddkit.pipeline.describing import REAL_PIXELS, real_pixels_of


def record(entry, *kinds):
    return PackRecord(entry=entry, fidelity=(0.0,) * 5, seconds=0.0, kinds=kinds)


@pytest.mark.parametrize(
    ("kinds", "pixels"),
    [
        (["noise"], "none"),
        (["noise", "real"], "whole"),
        (["patches", "real"], "whole"),
        (["noise", "patches"], "crops"),
        (["noise", "import"], "unknown"),
        ([], "unknown"),
    ],
)
def test_images_with_real_pixels_are_not_hidden_by_others(rded_set, kinds, pixels):
    entry = rded_set.shards[0]
    assert real_pixels_of([record(entry, *kinds)]) == pixels
    apart = [record(entry, kind) for kind in kinds]
    assert real_pixels_of(apart) == real_pixels_of(apart[::-1]) == pixels


@given(st.lists(st.sampled_from(list(REAL_PIXELS)), min_size=1, max_size=6))
def test_more_shards_never_claim_less(rded_set, kinds):
    records = [record(rded_set.shards[0], kind) for kind in kinds]
    order = list(REAL_PIXELS.values())
    found = [order.index(real_pixels_of(records[:n])) for n in range(1, len(records) + 1)]
    assert found == sorted(found, reverse=True)
