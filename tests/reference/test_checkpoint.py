"""Checkpoints: released layouts load name by name; everything else is refused in one clear line."""

import dataclasses
import json
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from bsst.config import EDGE, RELEASE, config_from_json
from bsst.errors import CheckpointError, UsageError
from bsst.reference.bsstnet import BSSTNet
from bsst.reference.checkpoint import load_networks
from bsst.reference.compact import make_network
from bsst.reference.raft import RAFT

SHAPES = json.loads((Path(__file__).parents[1] / "data" / "released_state_dicts.json").read_text())


def released(part: str) -> dict[str, torch.Tensor]:
    """A state dict with the names, shapes and dtypes of the released file; small distinct values."""
    return {
        name: torch.full(shape, 0.001 * (index % 97), dtype=getattr(torch, dtype))
        for index, (name, shape, dtype) in enumerate(SHAPES[part])
    }


def edge_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    state = dict(make_network(EDGE).state_dict())
    state |= {f"raft.{name}": tensor for name, tensor in RAFT(EDGE.raft).state_dict().items()}
    return state


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Released layouts on disk, written once."""
    folder = tmp_path_factory.mktemp("released")
    torch.save({"params": {f"module.{k}": v for k, v in released("bsstnet").items()}}, folder / "bsst.pth")
    torch.save({f"module.{k}": v for k, v in released("raft").items()}, folder / "raft.pth")
    return folder


def test_the_packaged_weights_are_of_the_configuration_that_the_code_has() -> None:
    assert load_networks().network.config == EDGE


def test_released_files_load_name_by_name(files) -> None:
    networks = load_networks(files / "bsst.pth", files / "raft.pth")
    assert networks.network.config == RELEASE
    for module, part in ((networks.network, "bsstnet"), (networks.raft, "raft")):
        source = released(part)
        for name, tensor in module.state_dict().items():
            assert torch.equal(tensor, source[name].reshape(tensor.shape)), name
    used = {"_".join(name.split(".")[:1]) for name in networks.network.state_dict()}
    skipped = {name.split(".")[0] for name in networks.unused if "." in name}
    assert {"feat_extract", "decoder_level2", "conv_last", "upsampler"} <= skipped
    assert "feat_extract" not in used
    # 933 + 179 entries; every one is either used or reported.
    names = len(networks.network.state_dict()) + len(networks.raft.state_dict()) + len(networks.unused)
    aliases = sum(".norm3." in name for name, *_ in SHAPES["raft"])
    assert names + aliases == len(SHAPES["bsstnet"]) + len(SHAPES["raft"])


def test_downsample_copy_of_the_shared_shortcut_norm_counts(files, tmp_path) -> None:
    raft = released("raft")
    for name in raft:
        if ".norm3." in name:
            raft[name] = torch.full_like(raft[name], 9)
    torch.save(raft, tmp_path / "raft.pth")
    state = load_networks(files / "bsst.pth", tmp_path / "raft.pth").raft.state_dict()
    assert torch.equal(state["cnet.layer2.0.downsample.1.weight"], raft["cnet.layer2.0.downsample.1.weight"])


def renamed(prefix: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


WRAPPERS = {
    "bare": lambda s: s,
    "ema": lambda s: {"params_ema": s, "params": {}, "iter": 5},
    "trainer": lambda s: {"state_dict": renamed("net.")(s), "epoch": 3, "pytorch-lightning_version": "2.4"},
    "mmagic": lambda s: {"state_dict": renamed("generator.")(s) | {"step_counter": torch.zeros(1)}, "meta": {}},
    "model": lambda s: {"model": s, "optimizer": {}},
    "compiled": lambda s: {"params": renamed("_orig_mod.")(s)},
    "compiled and parallel": lambda s: renamed("module._orig_mod.")(s),
    "counter beside": lambda s: {**s, "step": 3},
    "half": lambda s: {name: tensor.half() for name, tensor in s.items()},
    "parameters": lambda s: {name: torch.nn.Parameter(tensor) for name, tensor in s.items()},
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_layouts_that_people_save_load(wrap, tmp_path) -> None:
    torch.save(wrap(edge_state()), tmp_path / "edge.pth")
    assert load_networks(tmp_path / "edge.pth").network.config == EDGE


def test_safetensors_with_stored_configuration_loads(tmp_path) -> None:
    metadata = {"config": json.dumps(EDGE.to_json()), "label": "a test"}
    save_file(edge_state(), tmp_path / "edge.safetensors", metadata)
    networks = load_networks(tmp_path / "edge.safetensors")
    assert networks.network.config == EDGE
    assert networks.label == "a test"


def test_weights_stored_before_compact_layouts_existed_load(tmp_path) -> None:
    config = dataclasses.replace(
        RELEASE, name="edge", full_channels=8, half_channels=8, channels=12, raft=EDGE.raft, still_motion=(0.2, 0.8)
    )
    stored = {name: value for name, value in config.to_json().items() if name not in ("compact", "decoder_blocks")}
    state = dict(BSSTNet(config).state_dict())
    state |= {f"raft.{name}": tensor for name, tensor in RAFT(config.raft).state_dict().items()}
    save_file(state, tmp_path / "edge.safetensors", {"config": json.dumps(stored)})
    networks = load_networks(tmp_path / "edge.safetensors")
    assert networks.network.config == config
    assert type(networks.network) is BSSTNet


@pytest.mark.parametrize("part", ["compact", "decoder_blocks"])
@pytest.mark.parametrize("value", [1, "yes", [1], [1, 2, 3], [1, -2], [1, 2.5], None])
def test_a_layout_that_is_none_is_refused_in_words(part: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"expected {part} of a network configuration like"):
        config_from_json(EDGE.to_json() | {part: value})


def test_a_compact_layout_with_parts_that_it_lacks_is_refused_in_words(tmp_path) -> None:
    config = json.dumps(EDGE.to_json() | {"shift_blocks": 1})
    state = edge_state()
    del state["stem.weight"]  # else it fits `edge` as it is known
    save_file(state, tmp_path / "edge.safetensors", {"config": config})
    with pytest.raises(CheckpointError, match="edge cannot be built: expected a compact configuration without"):
        load_networks(tmp_path / "edge.safetensors")


@pytest.mark.parametrize("config", ["{", "[1]", "{}", '{"name": "edge", "raft": {"speed": 3}}'])
def test_broken_stored_configuration_is_refused_in_words(config: str, tmp_path) -> None:
    save_file(edge_state(), tmp_path / "edge.safetensors", {"config": config})
    with pytest.raises(CheckpointError, match="expected a stored configuration that bsst wrote"):
        load_networks(tmp_path / "edge.safetensors")


def test_digest_follows_the_values(tmp_path) -> None:
    digests = set()
    for value in (0.0, 0.0, 1.0):
        state = edge_state()
        state["last_conv.weight"] = torch.full_like(state["last_conv.weight"], value)
        save_file(state, tmp_path / "edge.safetensors")
        digests.add(load_networks(tmp_path / "edge.safetensors").sha256)
    assert len(digests) == 2


class Malicious:
    """Unpickling this would run a command."""

    def __reduce__(self):
        return (print, ("the checkpoint ran code",))


def break_truncated(path: Path) -> None:
    torch.save(edge_state(), path)
    path.write_bytes(path.read_bytes()[:-5000])


def break_malicious(path: Path) -> None:
    torch.save({"params": Malicious()}, path)


def break_raw_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps(Malicious(), protocol=2))


def break_nan(path: Path) -> None:
    state = edge_state()
    state["last_conv.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, path)


def break_missing_tensor(path: Path) -> None:
    state = edge_state()
    del state["last_conv.weight"]
    torch.save(state, path)


def break_extra_tensor(path: Path) -> None:
    torch.save({**edge_state(), "surprise.weight": torch.zeros(3)}, path)


def break_shape(path: Path) -> None:
    torch.save({**edge_state(), "last_conv.weight": torch.zeros(5, 4, 3, 3)}, path)


def break_flow_missing(path: Path) -> None:
    torch.save({name: t for name, t in edge_state().items() if not name.startswith("raft.")}, path)


def break_script(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # people have such files all the same
        torch.jit.script(torch.nn.Linear(2, 2)).save(path)


def break_old_format(path: Path) -> None:
    """PyTorch's format before 1.6, with the tensor's storage under a name that is not there."""
    torch.save({"last_conv.weight": torch.zeros(2)}, path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    name = re.findall(rb"\d{8,}", data)[-1]
    path.write_bytes(data.replace(name, name[:-1] + bytes([name[-1] ^ 1]), 1))


def break_one_bit(path: Path) -> None:
    torch.save(edge_state(), path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def changed(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        state = edge_state()
        torch.save({**state, "last_conv.weight": change(state["last_conv.weight"])}, path)

    return make


def beside(value: object) -> Callable[[Path], None]:
    return lambda path: torch.save({"params": edge_state(), "best": value}, path)


MENDING = r"where you trust the file, save the weights alone: torch.save\(your_model.state_dict\(\), 'weights.pth'\)"


def break_safetensors(path: Path) -> None:
    save_file(edge_state(), path)
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "No such file"),
        (lambda path: path.write_bytes(b""), "expected a PyTorch or safetensors checkpoint"),
        (lambda path: path.write_bytes(np.random.default_rng(0).bytes(4000)), "expected a PyTorch or safetensors"),
        (lambda path: path.mkdir(), "expected a checkpoint"),
        (lambda path: torch.save([1, 2], path), "expected a state dict"),
        (lambda path: torch.save({"weights": torch.zeros(2)}, path), "fits no configuration"),
        (break_truncated, "expected a PyTorch or safetensors checkpoint"),
        (break_malicious, "would run .*print"),
        (break_raw_pickle, "would run .*print"),
        (break_nan, "finite weights, got NaN"),
        (break_missing_tensor, "lacks 1 of .* first last_conv.weight"),
        (break_extra_tensor, "does not know 1 tensors, first surprise.weight"),
        (break_shape, r"needs last_conv.weight of shape .* found \(5, 4, 3, 3\)"),
        (break_flow_missing, "give --raft"),
        (break_safetensors, "expected a whole safetensors file"),
        (break_old_format, "expected a PyTorch or safetensors checkpoint, got storage key"),
        (break_one_bit, "fails its checksum; download it again"),
        (changed(lambda tensor: tensor.to(torch.int8)), "expected float weights, got .* of torch.int8"),
        (changed(lambda tensor: tensor.bool()), "expected float weights, got .* of torch.bool"),
        (changed(lambda tensor: tensor.to(torch.complex64)), "expected float weights, got .* of torch.complex64"),
        (changed(lambda tensor: tensor.to("meta")), "expected plain tensors, got 'last_conv.weight'"),
        (changed(lambda tensor: tensor.to_sparse()), "expected plain tensors, got 'last_conv.weight'"),
        (beside(np.float64(3.5)), f"numpy._core.multiarray.scalar beside the weights.*; {MENDING}"),
        (beside(np.array([1.0])), f"numpy._core.multiarray._reconstruct beside the weights.*; {MENDING}"),
        (
            break_script,
            r"torch.save\(torch.jit.load\('weights.pth'\)",
        ),
        (
            lambda path: torch.save({"optimizers": [{}], "schedulers": []}, path),
            "got 'optimizers, schedulers'; save the",
        ),
    ],
)
def test_unusable_file_is_refused_in_words(make, message, tmp_path, capsys) -> None:
    path = tmp_path / "weights.pth"
    make(path)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_networks(path, config="edge" if "lacks" in message or "needs" in message else None)
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert "ran code" not in capsys.readouterr().out


def test_a_label_with_escape_sequences_is_shown_as_text(tmp_path) -> None:
    save_file(edge_state(), tmp_path / "edge.safetensors", {"label": "\x1b[2Jgood\nerror: fake"})
    assert load_networks(tmp_path / "edge.safetensors").label == "\\x1b[2Jgood error: fake"


def test_flow_weights_of_another_network_are_refused(files, tmp_path) -> None:
    torch.save(edge_state(), tmp_path / "edge.pth")
    with pytest.raises(CheckpointError, match="expected RAFT weights"):
        load_networks(tmp_path / "edge.pth", files / "raft.pth")


def test_released_configuration_needs_weights() -> None:
    with pytest.raises(UsageError, match="--weights"):
        load_networks(config="release")


def test_the_packaged_weights_state_their_licence() -> None:
    assert load_networks().licence == "MIT"
