"""Stage `decode`, once per clip: reconstruction, attention and skip features -> decoder features at 1/2 scale.

The graph works on a part of the clip at a time. All frames at once is the same arithmetic, bit for bit on a CPU, and no
faster there; but what lies between two layers, several maps at 1/2 scale per frame, was then more than half of the
memory that a plan took. Frames meet only where a stage of the decoder exchanges half of the channels with a neighbour.
More and smaller parts would save more memory, but take longer to trace and to compile, and leave a GPU little to do.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bsst.export.stage import Geometry, Stage
from bsst.reference.bsstnet import BSSTNet
from bsst.reference.decoder import ShiftBlock

__all__ = ["decode_stage", "frames_at_once"]

PARTS, FEWEST = 3, 4
"""Parts of a clip at most, and frames of a part at least."""


def frames_at_once(frames: int) -> int:
    """Frames of each part of a clip of so many; the last part may have fewer."""
    return max(FEWEST, -(-frames // PARTS))


def decode_stage(network: BSSTNet, geometry: Geometry) -> Stage:
    """Build the stage for one clip of a tile."""
    config = network.config
    quarter = ((geometry.frames, config.channels, *geometry.at(4)), torch.float32)
    half = ((geometry.frames, config.half_channels, *geometry.at(2)), torch.float32)
    return Stage(
        name="decode",
        module=_Decode(network),
        inputs={"reconstruction": quarter, "attended": quarter, "half": half},
        outputs=("decoded",),
    )


class _Decode(nn.Module):
    """`BSSTNet.decode` of one clip, without batches."""

    def __init__(self, network: BSSTNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, reconstruction: Tensor, attended: Tensor, half: Tensor) -> Tensor:
        at_once = frames_at_once(len(half))
        groups = zip(*(x.split(at_once) for x in (reconstruction, attended, half)), strict=True)
        parts = [self.network.lift(*group) for group in groups]
        for block in self.network.shift_blocks():
            parts = _exchanged(block, parts)
        return torch.cat(parts)


def _exchanged(block: ShiftBlock, parts: list[Tensor]) -> list[Tensor]:
    """`ShiftBlock.forward` of one clip in parts, (frames, C, H, W) each."""
    half = parts[0].shape[1] // 2
    for index in range(block.stages):
        if block.forwards(index):
            sent = [x[:, half:] for x in parts]
            moved = [torch.cat((sent[at - 1][-1:], x[:-1])) for at, x in enumerate(sent)]
        else:
            sent = [x[:, :half] for x in parts]
            moved = [torch.cat((x[1:], sent[(at + 1) % len(sent)][:1])) for at, x in enumerate(sent)]
        parts = [block.exchange(index, x, y) for x, y in zip(parts, moved, strict=True)]
    return parts
