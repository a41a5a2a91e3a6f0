"""One forward pass of the released network on made-up inputs, with its intermediate results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from bsst.config import RELEASE
from bsst.reference.blur import blur_map
from bsst.reference.bsstnet import BSSTNet
from tests.golden_inputs import flows, video, weight

__all__ = ["INTERMEDIATES", "masks", "released_pass", "sampled"]

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


def released_pass(height: int, width: int) -> tuple[np.ndarray, dict[str, Any]]:
    """The top left corner (height, width) of the clip of 256x256 whose golden tensors are stored.

    Returns:
        Output (6, 3, height, width), and by golden name intermediates, flows, blur maps and the selection.
    """
    network = BSSTNet(RELEASE).eval()
    network.load_state_dict(
        {name: torch.from_numpy(weight(name, tuple(t.shape))) for name, t in network.state_dict().items()}
    )
    seen: dict[str, Any] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: object, _inputs: object, output: torch.Tensor) -> None:
            seen[name] = output

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
    clip, *motion = (torch.from_numpy(x)[None] for x in (video(6, 256, 256, seed=1), *flows(6, 64, 64, seed=1)))
    forward, backward = (flow[..., : height // 4, : width // 4] for flow in motion)
    with torch.no_grad():
        output = network(clip[..., :height, :width], backward, forward)
        seen["blur_map_raft"] = blur_map(backward, forward)
    return output[0].numpy(), seen


def sampled(values: torch.Tensor, most: int) -> np.ndarray:
    """Every n-th value, at most `most` of them."""
    flat = values.numpy().reshape(-1)
    return flat[:: -(-flat.size // most)]


def masks(selection: Any, windows: int) -> tuple[np.ndarray, np.ndarray]:
    """Chosen query and key frames of every window: each (4 blocks, 6 frames, windows), 0 or 1."""
    chosen = []
    for frames in (selection.query_frames, selection.key_frames):
        mask = np.zeros((4, 6, windows), np.uint8)
        for block, group in selection.active.nonzero().tolist():
            for frame in frames[block, group].tolist():
                mask[block, frame, group // 6] = 1  # T / m = 6 groups per window
        chosen.append(mask)
    return chosen[0], chosen[1]
