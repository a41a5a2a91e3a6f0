"""A small BSSTNet that trains and runs fast on CPUs; the stages are those of the specification, their layers are not.

* Frames enter and leave at 1/2 scale (pixel unshuffle and shuffle), so nothing is computed at full resolution.
* Blocks are two dense 3x3 convolutions around a residual: gates, depthwise convolutions, layer norms and channel
  attention take three to five times the time of their arithmetic on a CPU. Widths are multiples of 16.
* The decoder works on each frame alone; frames meet in propagation and in the sparse transformer.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from bsst.config import NetworkConfig
from bsst.errors import UsageError
from bsst.reference.bsstnet import BSSTNet
from bsst.reference.decoder import ShiftBlock
from bsst.reference.layers import conv3x3
from bsst.reference.propagation import DeformableAlignment
from bsst.reference.reconstruction import Reconstruction
from bsst.reference.restraint import Restraint
from bsst.reference.transformer import SoftComposition, SoftSplit, SparseTransformer

__all__ = ["CompactBSSTNet", "PlainBlock", "make_network"]


def make_network(config: NetworkConfig) -> BSSTNet:
    """The network of a configuration: `CompactBSSTNet` where it is compact, else the released layout."""
    return CompactBSSTNet(config) if config.compact else BSSTNet(config)


class PlainBlock(nn.Module):
    """Two dense 3x3 convolutions around a residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv3x3(channels, channels), nn.LeakyReLU(0.1), conv3x3(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        y: Tensor = x + self.body(x)
        return y


class CompactBSSTNet(BSSTNet):
    """`BSSTNet` with the compact layout; `full_channels` is not used.

    `encode` returns (stem, half, quarter): the first features of the unshuffled frame, at 1/2 scale, stand where the
    released layout has features at full resolution.

    Raises:
        UsageError: the configuration asks for parts that this layout does not have.
    """

    def __init__(self, config: NetworkConfig) -> None:
        nn.Module.__init__(self)
        if not config.compact or config.refine_flows or config.reconstruction_groups or config.shift_blocks:
            raise UsageError(
                "expected a compact configuration without flow refinement, window transformer and shift blocks, "
                f"got {config.name}; use BSSTNet for the released layout"
            )
        self.config = config
        half, quarter = config.half_channels, config.channels
        self.stem = conv3x3(12, half)
        self.encode_half = _blocks(half, config.half_blocks)
        self.down = conv3x3(half, quarter, stride=2)
        self.encode_quarter = _blocks(quarter, config.quarter_blocks)
        self.deform_align = nn.ModuleDict({name: DeformableAlignment(config) for name in config.branches})
        self.backbone = nn.ModuleDict(
            {
                name: nn.Sequential(conv3x3((2 + index) * quarter, quarter), nn.LeakyReLU(0.1), PlainBlock(quarter))
                for index, name in enumerate(config.branches)
            }
        )
        self.reconstruction = Reconstruction(config)
        self.softsplit = SoftSplit(quarter, config.token_channels)
        self.transsqattn = SparseTransformer(config)
        self.softcomp = SoftComposition(quarter, config.token_channels)
        self.decode_quarter = _blocks(quarter, config.decoder_blocks[0])
        self.up = nn.Conv2d(quarter, 4 * half, 1)
        self.decode_half = _blocks(half, config.decoder_blocks[1])
        self.last_conv = conv3x3(half, 12)
        if config.restraint_channels:
            self.restraint = Restraint(config.restraint_channels, half, config.detail)

    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Frames (B, 3, H, W) -> stem and features at 1/2 (B, D, H/2, W/2), features at 1/4 (B, C, H/4, W/4)."""
        stem = F.leaky_relu(self.stem(F.pixel_unshuffle(frames - 0.5, 2)), 0.1)
        half = self.encode_half(stem)
        return stem, half, self.encode_quarter(F.leaky_relu(self.down(half), 0.1))

    def lift(self, reconstruction: Tensor, attended: Tensor, half: Tensor) -> Tensor:
        """All of `decode`: (B, C, h, w) twice, skip (B, D, 2h, 2w) -> (B, D, 2h, 2w)."""
        x = self.decode_quarter(reconstruction + attended)
        decoded: Tensor = self.decode_half(F.pixel_shuffle(self.up(x), 2) + half)
        return decoded

    def shift_blocks(self) -> list[ShiftBlock]:
        """None: frames exchange nothing in the decoder."""
        return []

    def restore(self, decoded: Tensor, full: Tensor, frames: Tensor, moving: Tensor | None = None) -> Tensor:
        """Decoder features and stem (B, D, H/2, W/2), frames (B, 3, H, W) -> sharp frames (B, 3, H, W)."""
        residual = F.pixel_shuffle(self.last_conv(decoded + full), 2)
        if self.config.residual_limit is not None:
            residual = residual.clamp(-self.config.residual_limit, self.config.residual_limit)
        return frames + (residual if moving is None else self.restrain(residual, decoded, frames, moving))


def _blocks(channels: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(PlainBlock(channels) for _ in range(count)))
