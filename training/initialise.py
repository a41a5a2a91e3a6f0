"""Initialisation of both networks for training from scratch: motion must pay from the first steps.

With PyTorch's defaults the aligned features are fifty times too weak, with plain He initialisation the recurrence
explodes, and both train into single-frame sharpeners. Here the deformable convolution starts as a plain warp of
the previous state at half strength, everything outside the recurrence gets He initialisation, and
sparse attention starts as the identity.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bsst.reference.bsstnet import BSSTNet
from bsst.reference.compact import CompactBSSTNet, PlainBlock
from bsst.reference.propagation import DeformableAlignment
from bsst.reference.raft import RAFT, FixedBatchNorm

__all__ = ["initialise", "initialise_flow"]


@torch.no_grad()
def initialise(net: BSSTNet) -> None:
    """Fill all parameters of a compact network from torch's global generator."""
    assert isinstance(net, CompactBSSTNet)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, a=0.1, nonlinearity="leaky_relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in net.modules():
        if isinstance(module, PlainBlock):
            last = module.body[2]
            assert isinstance(last, nn.Conv2d)
            last.weight.mul_(0.2)
        elif isinstance(module, DeformableAlignment):
            _start_as_warp(module)
    net.stem.weight.mul_(3.0)  # frames have a standard deviation near 1/4
    net.up.weight.mul_(0.3)
    channels = net.config.channels
    for backbone in net.backbone.values():
        assert isinstance(backbone, nn.Sequential)
        first = backbone[0]
        assert isinstance(first, nn.Conv2d)
        first.weight.mul_(0.5)
        first.weight[:, -channels:].mul_(0.6)
    # A third of its outputs comes from each source, and states start at less than half the scale of the encoder's.
    mixing = net.reconstruction.main["1"]
    assert isinstance(mixing, nn.Conv2d)
    mixing.weight[channels // 3 :].mul_(2.5)
    nn.init.zeros_(net.softcomp.bias_conv.weight)
    nn.init.zeros_(net.last_conv.weight)
    if net.config.restraint_channels:
        net.restraint.first.weight.mul_(net.restraint.input_scales)
        nn.init.zeros_(net.restraint.last.weight)


def _start_as_warp(align: DeformableAlignment) -> None:
    """Centre tap 1 on the previous state; the mask starts at 1/2, the learned offsets at 0."""
    nn.init.normal_(align.weight, std=0.1 * (2 / (9 * align.weight.shape[1])) ** 0.5)
    channels = align.weight.shape[0]
    align.weight[range(channels), range(channels), 1, 1] += 1
    nn.init.zeros_(align.bias)
    last = align.conv_offset[6]
    assert isinstance(last, nn.Conv2d)
    nn.init.zeros_(last.weight)


def initialise_flow(raft: RAFT, clip: Tensor) -> None:
    """He initialisation; the fixed batch norm statistics become those of one batch, for stages at unit scale.

    Args:
        raft: network to initialise.
        clip: frames (N, 3, h, w) in [0, 1] on the grid that the network sees.
    """
    for name, module in raft.named_modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear" if "gru" in name else "relu")
            assert module.bias is not None
            nn.init.zeros_(module.bias)
    with torch.no_grad():
        raft.update_block.flow_head.conv2.weight.mul_(0.05)
        raft.cnet.conv2.weight.mul_(0.5)

    def measure(norm: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(norm, FixedBatchNorm)
        norm.running_mean.copy_(inputs[0].mean(dim=(0, 2, 3)))
        norm.running_var.copy_(inputs[0].var(dim=(0, 2, 3)))

    hooks = [m.register_forward_pre_hook(measure) for m in raft.modules() if isinstance(m, FixedBatchNorm)]
    with torch.no_grad():
        raft.features(clip)
    for hook in hooks:
        hook.remove()
