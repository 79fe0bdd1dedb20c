"""Checkpoints: safetensors files whose metadata holds the network's normalisation, classes and evaluation transform."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from ddkit.core.files import write_bytes
from ddkit.core.serialization import canonical, fingerprint, from_plain, strict_json, to_plain
from ddkit.errors import OptionError, TeacherError
from ddkit.networks.registry import check_network
from ddkit.specs import TeacherSpec
from ddkit.text import one_printable_line

LARGEST_SIDE, MOST_CLASSES = 2048, 1_000_000  # limits of a checkpoint's metadata


def tensor_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256, in hex, that identifies a network's weights.

    It covers name, dtype, shape and bytes of each tensor, in name order. It does not cover the file, so metadata such
    as an accuracy measured later does not change it.

    Args:
        tensors: Tensors by name, as in a state dict.
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        kind, shape = str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)
        array = tensor.reshape(-1).view(torch.uint8).numpy()
        digest.update(f"{name} {kind} {shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def save_checkpoint(path: Path, network: nn.Module, spec: TeacherSpec, *, half: bool = False) -> TeacherSpec:
    """Write a safetensors checkpoint atomically.

    Args:
        path: The checkpoint file.
        network: The network whose state dict is saved.
        spec: Its metadata; fields that are None and `hash` are not written.
        half: Whether to store the weights in half precision.

    Returns:
        `spec` with the hash of the weights.

    Raises:
        DiskError: The file cannot be written.
    """
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    if half:
        state = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    known = {key: value for key, value in to_plain(spec).items() if value is not None and key != "hash"}
    known["sha256"] = _checksum(known, state)
    write_bytes(path, save(state, {"ddkit": canonical(known, indent=None)}))
    return _with_hash(spec, state)


def _checksum(metadata: Mapping[str, Any], state: Mapping[str, Tensor]) -> str:
    """Return the hash of a checkpoint's weights and of its metadata without the checksum itself."""
    return fingerprint([{k: v for k, v in metadata.items() if k != "sha256"}, tensor_hash(state)])


def _with_hash(spec: TeacherSpec, state: Mapping[str, Tensor]) -> TeacherSpec:
    return TeacherSpec(**{**{key: getattr(spec, key) for key in to_plain(spec)}, "hash": tensor_hash(state)})


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the tensors and the `ddkit` metadata of a safetensors file. A pickle is rejected without being loaded.

    Args:
        path: The file.

    Returns:
        (tensors by name, metadata under the key `ddkit`, empty if the file has none).

    Raises:
        TeacherError: The file does not exist or is not a valid safetensors file.
    """
    if not path.is_file():
        raise TeacherError(f"no checkpoint {path}; train one with `ddkit teach {path} --data SOURCE --arch NAME`")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = strict_json((file.metadata() or {}).get("ddkit", "{}"))
            if not isinstance(metadata, dict):
                raise ValueError("its metadata key 'ddkit' is not a JSON object")
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 (not a dict)
    except (SafetensorError, ValueError, TypeError) as error:
        with open(path, "rb") as raw:
            head = raw.read(2)
        what = "a pickle, which can run code" if head in (b"PK", b"\x80\x02", b"\x80\x04") else f"damaged ({error})"
        raise TeacherError(
            f"{path} is not a safetensors checkpoint but {what}; convert it with safetensors.torch.save_file"
        ) from error


def _check_spec(path: Path, spec: TeacherSpec) -> None:
    """Raise TeacherError if a checkpoint's metadata is inconsistent or out of range."""
    wrong = None
    if len(spec.classes) != spec.num_classes:
        wrong = f"names {len(spec.classes)} classes and has {spec.num_classes} outputs"
    elif spec.class_ids is not None and len(spec.class_ids) != spec.num_classes:
        wrong = f"names {len(spec.class_ids)} class ids for {spec.num_classes} classes"
    elif len(spec.mean) != 3 or len(spec.std) != 3 or min(spec.std) < 1e-6 or max(map(abs, spec.mean + spec.std)) > 1e6:
        wrong = f"has mean {list(spec.mean)} and std {list(spec.std)}, not three of each and std above 0"
    elif not 1 <= spec.image_size <= LARGEST_SIDE or not 1 <= spec.num_classes <= MOST_CLASSES:
        wrong = f"is for {spec.num_classes} classes of {spec.image_size} px; at most {MOST_CLASSES}, {LARGEST_SIDE} px"
    elif spec.accuracy is not None and not 0 <= spec.accuracy <= 100:
        wrong = f"has an accuracy of {spec.accuracy} percent"
    elif not re.fullmatch(r"[\w.:/@+-]{1,200}", spec.arch) or one_printable_line(spec.measured_on or "") != (
        spec.measured_on or ""
    ):
        wrong = "names its network or what it was measured on in text that a manifest cannot hold"
    elif spec.transform.crop != spec.image_size or not spec.image_size <= spec.transform.resize <= 4 * LARGEST_SIDE:
        wrong = f"has evaluation {to_plain(spec.transform)} for images of {spec.image_size} px"
    if wrong:
        raise TeacherError(f"{path} {wrong}; fix its metadata key 'ddkit'")


def _check_extent(path: Path, spec: TeacherSpec, state: Mapping[str, Tensor]) -> None:
    """Raise TeacherError if weights are complex, or if the network named in the metadata is larger than the weights.

    Runs before memory is allocated for the network.
    """
    if any(tensor.is_complex() for tensor in state.values()):
        raise TeacherError(f"{path} holds complex numbers; a network here has real weights")
    try:
        with torch.device("meta"):
            empty = check_network(spec.arch, spec.num_classes, spec.image_size)
    except (RuntimeError, NotImplementedError):  # some constructors compute, which fails on the meta device
        return
    due, held = (sum(t.numel() for t in tensors.values()) for tensors in (empty.state_dict(), state))
    if due > held + 1000:
        raise TeacherError(f"{path} does not fit the network it names ({held} numbers, {spec.arch} has {due})")


def load_checkpoint(path: str | Path) -> tuple[nn.Module, TeacherSpec]:
    """Load a network and its metadata from a checkpoint.

    Args:
        path: The checkpoint file.

    Returns:
        (network in evaluation mode, its metadata with the hash of the weights).

    Raises:
        TeacherError: The file is missing or damaged, its metadata is incomplete or does not match the weights, or a
            weight is not finite. The message names what is missing or differs.
    """
    path = Path(path)
    state, metadata = read_weights(path)
    needed = ("arch", "num_classes", "image_size", "mean", "std", "classes")
    if "sha256" in metadata and metadata["sha256"] != _checksum(metadata, state):
        raise TeacherError(
            f"{path} was changed after it was written (its own sha256 differs); fetch it or train it again"
        )
    if missing := [key for key in needed if key not in metadata]:
        raise TeacherError(f"{path} has no {', '.join(missing)} in its metadata key 'ddkit'; `ddkit teach` writes them")
    known = {f.name for f in dataclasses.fields(TeacherSpec)} - {"hash"}
    try:
        spec = from_plain(TeacherSpec, {k: v for k, v in metadata.items() if k in known and v is not None}, str(path))
        _check_spec(path, spec)
        _check_extent(path, spec, state)
        network = check_network(spec.arch, spec.num_classes, spec.image_size)
        network.load_state_dict(state)
    except (RuntimeError, TypeError, ValueError) as error:
        raise TeacherError(f"{path} does not fit the network it names ({str(error).splitlines()[0]})") from error
    except OptionError as error:
        raise TeacherError(
            f"{error}; correct the checkpoint's metadata key 'ddkit', or train one with `ddkit teach`"
        ) from error
    if not all(torch.isfinite(tensor).all() for tensor in state.values() if tensor.is_floating_point()):
        raise TeacherError(f"{path} holds weights that are not finite; train it again with `ddkit teach`")
    return network.eval(), _with_hash(spec, state)
