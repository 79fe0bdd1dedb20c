"""Single rows of `load_dataset`: a view computed from them is what the loader replays."""

import datasets
import numpy as np
import pytest
import torch

import ddkit
from ddkit.errors import OptionError, SetError
from ddkit.replay.order import epoch_order


@pytest.fixture(scope="module")
def rows(rded_set):
    return datasets.load_dataset(str(rded_set.root), "default", split="train")


def test_every_view_is_the_pixels_and_logits_of_the_loader(rded_set, rows):
    loader = ddkit.ReplayLoader(rded_set.root, batch_size=len(rows), batch="dict")
    mixed = 0
    for epoch in range(loader.views):
        batch = next(iter(loader))
        for at in (0, 7, len(rows) - 1):
            row = rows[int(batch["rows"][at])]
            decoded = ddkit.decode_row(row)
            partner = int(decoded["partner"][epoch])
            mixed += partner != 65535
            other = None if partner == 65535 else rows[decoded["meta"]["first"] + partner]
            assert torch.equal(ddkit.apply_view(row, epoch, other), batch["pixel_values"][at])
            assert torch.equal(decoded["logits"][epoch], batch["teacher_logits"][at])
            assert decoded["label"] == int(batch["labels"][at])
    assert mixed


def test_columns_may_be_renamed_and_images_encoded(rows):
    renamed = rows.rename_columns({"png": "image", "views.safetensors": "views", "cls": "label"})
    first = ddkit.decode_row(rows[0])
    other = first["meta"]["first"] + int(first["partner"][0])
    want = ddkit.apply_view(rows[0], 0, rows[other])
    assert torch.equal(ddkit.apply_view(renamed[0], 0, renamed[other]), want)
    encoded = rows.cast_column("png", datasets.Image(decode=False))
    assert torch.equal(ddkit.apply_view(encoded[0], 0, encoded[other]), want)
    raw = [encoded[i] | {"png": encoded[i]["png"]["bytes"]} for i in (0, other)]
    assert torch.equal(ddkit.apply_view(raw[0], 0, raw[1]), want)


def test_a_missing_or_wrong_partner_and_an_index_that_is_none_are_named(rows):
    decoded = ddkit.decode_row(rows[0])
    index = int(np.flatnonzero(decoded["partner"] != 65535)[0])
    wanted = f"{decoded['meta']['first'] + int(decoded['partner'][index]):08d}"
    for partner in (None, rows[0]):
        with pytest.raises(SetError, match=f"row {wanted}.*partner="):
            ddkit.apply_view(rows[0], index, partner)
    for index in (-1, 5):
        with pytest.raises(OptionError, match="count from 0"):
            ddkit.apply_view(rows[0], index)


def test_a_row_of_something_else_says_what_it_lacks(rows):
    row = rows[0]
    with pytest.raises(SetError, match="no column with the views"):
        ddkit.decode_row({"png": row["png"], "cls": 0})
    with pytest.raises(SetError, match="not those of a ddkit set"):
        ddkit.decode_row(row | {"views.safetensors": b"\x00" * 64})
    with pytest.raises(SetError, match="not a valid class"):
        ddkit.decode_row(row | {"cls": 10})


def test_the_order_of_an_epoch_names_rows(rded_set):
    loader = ddkit.ReplayLoader(rded_set.root, batch_size=30, batch="dict", seed=3)
    order = epoch_order([shard.rows for shard in rded_set.shards], 3, 0)
    assert next(iter(loader))["rows"].tolist() == order.tolist()
