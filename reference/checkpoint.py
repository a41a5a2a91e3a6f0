"""Weights from disk: released `.pth` layouts and safetensors, recognised by their tensor shapes, never unpickled.

Accepted layouts: a bare state dict, or one under `params_ema` or `params`; names with or without a leading `module.`;
RAFT in a file of its own, or beside BSSTNet with the prefix `raft.`.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from bsst.config import CONFIGS, NetworkConfig, config_from_json
from bsst.errors import CheckpointError, UsageError
from bsst.plan.rules import LONGEST_LABEL
from bsst.reference.bsstnet import BSSTNet
from bsst.reference.compact import make_network
from bsst.reference.raft import RAFT
from bsst.text import printable

__all__ = ["EDGE_WEIGHTS", "Networks", "load_networks"]

EDGE_WEIGHTS = Path(__file__).parent / "weights" / "edge.safetensors"
"""Weights of the `edge` configuration, part of the package; RAFT included."""

RAFT_PREFIX = "raft."
COMPILED_PREFIX = "_orig_mod."
WRAPPERS = ("params_ema", "params", "state_dict", "model_state_dict", "model", "net", "network", "generator")
OWNERS = ("generator_ema.", "generator.", "model.", "network.", "net.")
SAVE_ALONE = "torch.save(your_model.state_dict(), 'weights.pth') in the program that wrote {}"
MODULE_PREFIX = "module."

UNUSED_PREFIXES = (
    "feat_extract.",
    "decoder_level1_2.",
    "decoder_level2.",
    "decoder_level2_1.",
    "decoder_level2_2.",
    "conv_before_input.",
    "conv_before_upsampler.",
    "upsampler.",
    "conv_last.",
)
"""Modules that the released checkpoints carry and no forward pass reaches (specification section 2.1)."""

UNUSED_SUFFIXES = ("relative_position_index", "valid_ind_rolled", "mask_padding", "num_batches_tracked")
"""Constants and counters that are computed where they are needed."""


@dataclass(frozen=True, kw_only=True)
class Networks:
    """Reference networks with their weights, in evaluation mode."""

    network: BSSTNet
    """Deblurring network."""
    raft: RAFT
    """Flow network."""
    label: str
    """What the weights are, in words shown to users."""
    licence: str = ""
    """Of the weights, as their file states it; "" where it does not."""
    sha256: str
    """Digest over names, shapes and values of all used tensors."""
    unused: tuple[str, ...]
    """Checkpoint entries that no forward pass reaches."""


def load_networks(weights: Path | None = None, raft: Path | None = None, config: str | None = None) -> Networks:
    """Load BSSTNet and RAFT.

    Args:
        weights: BSSTNet checkpoint; None for the packaged `edge` weights.
        raft: RAFT checkpoint; None if `weights` contains it.
        config: name in `bsst.config.CONFIGS` to insist on; None recognises it.

    Raises:
        CheckpointError: a file is missing, truncated, not a checkpoint, unsafe, or of another network.
    """
    if weights is None and config not in (None, "edge"):
        raise UsageError(f"expected --weights CHECKPOINT for config {config}, got none; only edge weights are packaged")
    path = weights or EDGE_WEIGHTS
    tensors, metadata = _read(path)
    flow = {name[len(RAFT_PREFIX) :]: t for name, t in tensors.items() if name.startswith(RAFT_PREFIX)}
    deblur = {name: t for name, t in tensors.items() if not name.startswith(RAFT_PREFIX)}
    chosen = _recognise(path, deblur, metadata, config)
    if raft is not None:
        flow, _ = _read(raft)
    elif not flow:
        raise CheckpointError(
            f"{path}: expected RAFT weights with the prefix {RAFT_PREFIX}, got none; give --raft FILE"
        )
    network, flow_network = make_network(chosen), RAFT(chosen.raft)
    unused = _load(path, network, deblur) + _load(raft or path, flow_network, _settle_shortcut_norms(flow))
    label = _line(metadata.get("label") or f"{chosen.name} weights from {path.name}")
    return Networks(
        network=network.eval(),
        raft=flow_network.eval(),
        label=label,
        licence=_line(metadata.get("licence", "")),
        sha256=_digest(network, flow_network),
        unused=unused,
    )


def _line(text: str) -> str:
    return printable(text).replace("\n", " ")[:LONGEST_LABEL]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by plain name, and the text metadata of a safetensors file."""
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise CheckpointError(f"{path}: expected a checkpoint, got {error.strerror}; check the path") from error
    if head[8:9] == b"{":
        return _read_safetensors(path)
    _require_sound_archive(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols; the file is judged by its content below
            data = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        called = re.search(r"GLOBAL ([\w.]+)", str(error))
        if called and called[1].startswith(("numpy.", "numpy._core.", "collections.", "argparse.", "omegaconf.")):
            raise CheckpointError(
                f"{path}: expected tensors only, got {called[1]} beside the weights, as training checkpoints have; "
                f"where you trust the file, save the weights alone: {SAVE_ALONE.format(path.name)}"
            ) from error
        if called:
            raise CheckpointError(
                f"{path}: expected tensors only, got a file that would run {called[1]} when loaded; "
                "do not use it, or save its state dict alone"
            ) from error
        raise CheckpointError(
            f"{path}: expected a PyTorch or safetensors checkpoint, got other data; download it again"
        ) from error
    except Exception as error:  # whatever a damaged pickle makes of PyTorch, assertions included
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "TorchScript" in str(error):
            raise CheckpointError(
                f"{path}: expected a state dict, got a TorchScript program; save its weights alone where you trust it: "
                f"torch.save(torch.jit.load({path.name!r}).state_dict(), 'weights.pth')"
            ) from error
        raise CheckpointError(
            f"{path}: expected a PyTorch or safetensors checkpoint, got {reason}; download it again"
        ) from error
    for key in WRAPPERS:
        if isinstance(data, dict) and isinstance(data.get(key), dict):
            data = data[key]
            break
    if isinstance(data, dict):  # counters beside the weights
        data = {name: value for name, value in data.items() if not isinstance(value, int | float | str | type(None))}
    if not isinstance(data, dict) or not data or not all(isinstance(value, Tensor) for value in data.values()):
        found = ", ".join(map(str, list(data)[:4])) if isinstance(data, dict) else type(data).__name__
        raise CheckpointError(
            f"{path}: expected a state dict, bare or under {', '.join(WRAPPERS)}, got "
            f"{ascii(found or 'nothing')[:200]}; save the weights alone: {SAVE_ALONE.format(path.name)}"
        )
    for name, tensor in data.items():
        if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
            raise CheckpointError(
                f"{path}: expected plain tensors, got {ascii(str(name))[:80]} without plain values; save float weights"
            )
    return _without_owner({_plain(str(name)): tensor for name, tensor in data.items()}), {}


def _without_owner(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the network where a trainer stored them under its own attribute, its other state left out."""
    for owner in OWNERS:
        owned = {name.removeprefix(owner): tensor for name, tensor in tensors.items() if name.startswith(owner)}
        if len(owned) > len(tensors) / 2:
            return owned
    return tensors


def _require_sound_archive(path: Path) -> None:
    """Compare every byte with the archive's checksums, which `torch.load` does not."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, zlib.error, EOFError, ValueError) as error:
        raise CheckpointError(f"{path}: expected an undamaged archive, got {error}; download it again") from error
    if damaged is not None:
        raise CheckpointError(
            f"{path}: expected an undamaged archive, {ascii(damaged)[:80]} fails its checksum; download it again"
        )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {_plain(name): file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            return tensors, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: expected a whole safetensors file, got {error}; download it again") from error


def _plain(name: str) -> str:
    for prefix in (MODULE_PREFIX, COMPILED_PREFIX, MODULE_PREFIX):
        name = name.removeprefix(prefix)
    return name


def _recognise(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], wanted: str | None
) -> NetworkConfig:
    """Configuration whose parameters all have the shapes found; the one stored in the file is tried first."""
    candidates = [CONFIGS[wanted]] if wanted else list(CONFIGS.values())
    if "config" in metadata:
        try:
            stored = config_from_json(json.loads(metadata["config"]))
        except (ValueError, TypeError, RecursionError, UsageError) as error:
            raise CheckpointError(f"{path}: expected a stored configuration that bsst wrote, got {error}") from error
        if wanted in (None, stored.name):
            candidates.insert(0, stored)
    problems = []
    for config in candidates:
        try:
            with torch.device("meta"):
                problem = _mismatch(make_network(config), tensors)
        except (ValueError, TypeError, ArithmeticError, RuntimeError, LookupError, UsageError) as error:
            if config in CONFIGS.values():
                raise
            problem = f"cannot be built: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        if problem is None:
            return config
        problems.append(f"{config.name} {problem}")
    raise CheckpointError(
        f"{path}: expected a BSSTNet checkpoint, got one that fits no configuration: {'; '.join(problems)}; "
        "check that the file is not another network's"
    )


def _mismatch(module: nn.Module, tensors: Mapping[str, Tensor]) -> str | None:
    """First disagreement between a module and a checkpoint, in words."""
    expected = module.state_dict()
    missing = [name for name in expected if name not in tensors]
    if missing:
        return f"lacks {len(missing)} of {len(expected)} tensors, first {missing[0]}"
    for name, tensor in expected.items():
        if _squeezed(tensors[name]) != _squeezed(tensor):
            return f"needs {name} of shape {tuple(tensor.shape)}, found {tuple(tensors[name].shape)}"
    extra = [name for name in tensors if name not in expected and not _is_unused(name)]
    return f"does not know {len(extra)} tensors, first {extra[0]}" if extra else None


def _squeezed(tensor: Tensor) -> tuple[int, ...]:
    """Shape without the singleton time axis that the released file gives to spatial convolutions."""
    return tuple(size for size in tensor.shape if size != 1)


def _is_unused(name: str) -> bool:
    return name.startswith(UNUSED_PREFIXES) or name.endswith(UNUSED_SUFFIXES)


def _load(path: Path, module: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    problem = _mismatch(module, tensors)
    if problem:
        raise CheckpointError(f"{path}: expected {type(module).__name__} weights, got a file that {problem}")
    expected = module.state_dict()
    whole = [name for name in expected if not tensors[name].is_floating_point()]
    if whole:
        raise CheckpointError(
            f"{path}: expected float weights, got {whole[0]} of {tensors[whole[0]].dtype}; save them as float32"
        )
    fitted = {name: tensors[name].reshape(tensor.shape).float() for name, tensor in expected.items()}
    broken = [name for name, tensor in fitted.items() if not tensor.isfinite().all()]
    if broken:
        raise CheckpointError(f"{path}: expected finite weights, got NaN or infinity in {broken[0]}; download it again")
    module.load_state_dict(fitted)
    return tuple(name for name in tensors if name not in expected)


def _settle_shortcut_norms(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop the first of the two names of RAFT's shortcut norms; `downsample.1` is the one that counts."""
    return {name: tensor for name, tensor in tensors.items() if ".norm3." not in name}


def _digest(*modules: nn.Module) -> str:
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in module.state_dict().items():
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
