"""The reference reproduces the released network: golden tensors of a six-frame clip with name-seeded weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from bsst.config import RELEASE
from bsst.reference.blur import blur_map
from bsst.reference.bsstnet import BSSTNet
from tests.golden_inputs import flows, video, weight

GOLDEN = np.load(Path(__file__).parents[1] / "data" / "bsst_T6_seed1.npz")


def seeded_release() -> BSSTNet:
    network = BSSTNet(RELEASE).eval()
    network.load_state_dict(
        {name: torch.from_numpy(weight(name, tuple(t.shape))) for name, t in network.state_dict().items()}
    )
    return network


@pytest.fixture(scope="module")
def run():
    """Output, intermediates by golden name, and the selection of one forward pass."""
    network = seeded_release()
    seen: dict[str, torch.Tensor] = {}

    def keep(name, index=None):
        def hook(_module, _inputs, output):
            seen[name] = output if index is None else output[index]

        return hook

    network.encoder_level2_1.register_forward_hook(keep("encoder"))
    network.reconstruction.register_forward_hook(keep("reconstruction"))
    network.softsplit.register_forward_hook(keep("softsplit"))
    for index, block in enumerate(network.transsqattn.transformer):
        block.attention.register_forward_hook(keep(f"attention_block{index}"))
    network.transsqattn.register_forward_hook(keep("transformer"))
    network.softcomp.register_forward_hook(keep("softcomp"))
    network.cabattn[1].register_forward_hook(keep("fused"))
    network.up21.register_forward_hook(keep("up21"))
    network.decoder_level1.register_forward_hook(keep("decoder_level1"))
    network.decoder_level1_1.register_forward_hook(keep("decoder_level1_1"))
    propagate, refine = network.propagate, network.refine

    def propagate_and_keep(branch, features, motion):
        seen[f"prop_{branch}"] = propagate(branch, features, motion)
        return seen[f"prop_{branch}"]

    def refine_and_keep(backward, forward):
        blur, *flows = refine(backward, forward)
        seen["sharp_map"], (seen["selection"],) = 1 - blur, network.select(blur)
        seen["flow_backward_refined"], seen["flow_forward_refined"] = flows
        return blur, *flows

    network.propagate, network.refine = propagate_and_keep, refine_and_keep
    forward, backward = (torch.from_numpy(flow)[None] for flow in flows(6, 64, 64, seed=1))
    with torch.no_grad():
        output = network(torch.from_numpy(video(6, 256, 256, seed=1))[None], backward, forward)
        seen["blur_map_raft"] = blur_map(backward, forward)
    return output[0].numpy(), seen


INTERMEDIATES = [
    "encoder",
    "prop_backward_1",
    "prop_forward_1",
    "prop_backward_2",
    "prop_forward_2",
    "reconstruction",
    "softsplit",
    "attention_block0",
    "attention_block1",
    "attention_block2",
    "attention_block3",
    "transformer",
    "softcomp",
    "fused",
    "up21",
    "decoder_level1",
    "decoder_level1_1",
]


@pytest.mark.slow
def test_output_matches_within_1e_4(run) -> None:
    output, _ = run
    assert np.abs(output[:, :, ::4, ::4] - GOLDEN["output_stride4"]).max() <= 1e-4
    np.testing.assert_allclose([output.mean(), output.std()], GOLDEN["output_mean_std"], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", INTERMEDIATES)
def test_intermediate_matches_within_a_thousandth_of_its_spread(run, name) -> None:
    flat = run[1][name].numpy().reshape(-1)
    mean, std = GOLDEN[f"{name}_mean_std"]
    sampled = flat[:: -(-flat.size // 8192)]
    assert np.abs(sampled - GOLDEN[name]).max() <= 1e-3 * std
    assert abs(flat.mean() - mean) <= 1e-3 * std
    assert abs(flat.std() - std) <= 1e-3 * std


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flow_forward_refined", "flow_backward_refined"])
def test_refined_flow_matches_within_a_thousandth_of_a_pixel(run, name) -> None:
    flat = run[1][name].numpy().reshape(-1)
    assert np.abs(flat[:: -(-flat.size // 8192)] - GOLDEN[name]).max() <= 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["blur_map_raft", "sharp_map"])
def test_blur_maps_match(run, name) -> None:
    assert np.abs(run[1][name].numpy().reshape(-1) - GOLDEN[name].reshape(-1)).max() <= 1e-5


@pytest.mark.slow
def test_selected_windows_and_frames_match_exactly(run) -> None:
    selection = run[1]["selection"]
    for golden, frames in (("query_masks", selection.query_frames), ("kv_masks", selection.key_frames)):
        mask = np.zeros((4, 6, 16), int)
        for block, group in selection.active.nonzero().tolist():
            for frame in frames[block, group].tolist():
                mask[block, frame, group // 6] = 1  # T / m = 6 groups per window
        np.testing.assert_array_equal(mask, GOLDEN[golden][:, 0, :, :, :, 0].reshape(4, 6, 16))
