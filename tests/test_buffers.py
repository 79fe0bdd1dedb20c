"""Buffers: a batch that anything still refers to is never overwritten; one that nothing refers to is used again."""

import multiprocessing
import os
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ddkit import ReplayLoader
from ddkit.replay.buffers import ALIGNED, BatchBuffers

HOLDERS = {
    "tensor": lambda x: x,
    "view": lambda x: x[1:, :1],
    "array": lambda x: x[0].numpy(),
    "detached": lambda x: x.detach(),
    "storage": lambda x: x.untyped_storage(),
    "graph": lambda x: (x * torch.ones((), requires_grad=True)).sum(),
}


def content(held):
    if isinstance(held, torch.UntypedStorage):
        return bytes(held)
    if getattr(held, "grad_fn", None) is not None:
        leaf = torch.autograd.graph.get_gradient_edge(held)
        saved = leaf.node.next_functions[0][0]._saved_self
        return saved.numpy().tobytes()
    return (held.numpy() if isinstance(held, torch.Tensor) else held).tobytes()


@given(
    st.lists(st.tuples(st.sampled_from([*HOLDERS, None]), st.integers(2, 5), st.booleans()), max_size=30),
    st.integers(0, 4),
)
@settings(max_examples=60, deadline=None)
def test_a_held_batch_is_never_overwritten(steps, most):
    buffers, held = BatchBuffers(most), []
    for number, (how, rows, forget) in enumerate(steps):
        if forget and held:
            held.pop(0)
        x = buffers.take((rows, 3, 2, 2)).fill_(number)
        assert x.shape == (rows, 3, 2, 2) and x.is_contiguous() and x.data_ptr() % ALIGNED == 0
        if how is not None:
            kept = HOLDERS[how](x)
            held.append((kept, content(kept)))
        del x
        assert all(content(kept) == before for kept, before in held)


def test_memory_is_used_again():
    buffers = BatchBuffers(2)
    first = buffers.take((4, 3))
    address = first.data_ptr()
    assert buffers.take((4, 3)).data_ptr() != address
    del first
    assert buffers.take((2, 3)).data_ptr() == address  # also by a smaller batch
    assert buffers.take((4, 3)).data_ptr() == address
    assert pickle.loads(pickle.dumps(buffers)).take((1,)).shape == (1,)


def test_batches_of_a_loader_can_be_kept(random_set):
    loader = ReplayLoader(random_set.root, batch_size=6, device="cpu")
    kept = [(images, images.clone()) for _ in range(4) for images, _, _ in loader]
    assert all(torch.equal(a, b) for a, b in kept)
    assert len({images.data_ptr() for images, _ in kept}) == len(kept)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_does_not_wait_for_a_thread_of_its_parent():
    buffers = BatchBuffers(2)
    with buffers._lock:  # as a thread of the parent may hold it
        fork = multiprocessing.get_context("fork").Process(target=lambda: buffers.take((2,)).fill_(7))
        fork.start()
        fork.join(60)
    stuck = fork.is_alive()
    fork.kill()
    assert not stuck and fork.exitcode == 0
