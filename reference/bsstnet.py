"""BSSTNet in plain PyTorch (specification sections 1 to 13): the truth that every deployed plan is compared with.

The methods are the pipeline stages; `forward` runs them in order on one batch of clips.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bsst.config import NetworkConfig
from bsst.errors import UsageError
from bsst.reference.blur import Direction, blur_map, branch_motion, followed, moving_map
from bsst.reference.decoder import PixelShuffleUpsample, ShiftBlock, SkipUpsample
from bsst.reference.layers import ChannelAttentionBlock, GatedBlock, GatedFusionBlock, conv3x3
from bsst.reference.propagation import DeformableAlignment, make_backbone, propagation_step
from bsst.reference.reconstruction import Reconstruction
from bsst.reference.refinement import FlowRefinement, refine_flows
from bsst.reference.restraint import MOTION_LIMIT, Restraint, kept_share
from bsst.reference.selection import Selection, legal_frames, select
from bsst.reference.transformer import SoftComposition, SoftSplit, SparseTransformer

__all__ = ["BSSTNet", "direction_of"]


def direction_of(branch: str) -> Direction:
    """Direction in which a branch such as "backward_1" visits the frames."""
    return "backward" if branch.startswith("backward") else "forward"


class BSSTNet(nn.Module):
    """Video deblurring network; parameter names are those of the released checkpoint.

    Only modules that run are created.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        full, half, quarter = config.full_channels, config.half_channels, config.channels

        self.concat = nn.Sequential(conv3x3(3, full, bias=False), nn.LeakyReLU(0.1), ChannelAttentionBlock(full))
        self.down01 = nn.Sequential(conv3x3(full, half, stride=2, bias=False), nn.LeakyReLU(0.1))
        self.down12 = nn.Sequential(conv3x3(half, quarter, stride=2, bias=False), nn.LeakyReLU(0.1))
        for level, channels, count in ((1, half, config.half_blocks), (2, quarter, config.quarter_blocks)):
            for index in range(count):
                self.add_module(_numbered(f"encoder_level{level}", index), ChannelAttentionBlock(channels))

        if config.refine_flows:
            self.blur_motion_refine = FlowRefinement()
        self.deform_align = nn.ModuleDict({name: DeformableAlignment(config) for name in config.branches})
        self.backbone = nn.ModuleDict(
            {name: make_backbone(quarter, 2 + index) for index, name in enumerate(config.branches)}
        )
        self.reconstruction = Reconstruction(config)

        self.softsplit = SoftSplit(quarter, config.token_channels)
        self.transsqattn = SparseTransformer(config)
        self.softcomp = SoftComposition(quarter, config.token_channels)

        self.cabattn = nn.ModuleList([GatedFusionBlock(quarter, quarter, 5), GatedBlock(quarter, 5)])
        self.up21 = SkipUpsample(quarter, half)
        self.skip_attn1 = ChannelAttentionBlock(half)
        for index in range(config.shift_blocks):
            self.add_module(_numbered("decoder_level1", index), ShiftBlock(half))
        self.upsample0 = PixelShuffleUpsample(half, full)
        self.conv_hr0 = conv3x3(full, full, bias=False)
        self.skip_conv = ChannelAttentionBlock(full)
        self.out_conv = ChannelAttentionBlock(full)
        self.last_conv = conv3x3(full, 3, bias=False)
        if config.restraint_channels:
            self.restraint = Restraint(config.restraint_channels, half, config.detail)

    def forward(self, frames: Tensor, backward: Tensor, forward: Tensor) -> Tensor:
        """Deblur clips.

        Args:
            frames: (N, T, 3, H, W) RGB in [0, 1]; H and W multiples of 64, T >= 1.
            backward: flow of frame t to t + 1, (N, T-1, 2, H/4, W/4), pixels at 1/4 scale.
            forward: flow of frame t + 1 to t, same shape.

        Returns:
            (N, T, 3, H, W), not clamped. A clip whose length does not divide into groups is continued by reflection and
            cropped afterwards.

        Raises:
            UsageError: H or W is not a multiple of 64.
        """
        multiple = self.config.tile_multiple
        if frames.shape[3] % multiple or frames.shape[4] % multiple:
            raise UsageError(f"expected height and width in multiples of {multiple}, got {frames.shape = }; pad them")
        n, count = frames.shape[:2]
        frames, backward, forward = _pad_clip(frames, backward, forward)
        clip = (n, frames.shape[1])

        full, half, quarter = self.encode(frames.flatten(0, 1))
        blur, backward, forward = self.refine(backward, forward)
        sharp, selections = 1 - blur, self.select(blur)
        moving = self.moving(backward, forward)
        motion: dict[Direction, Tensor] = {
            "backward": branch_motion(sharp, backward, forward, "backward", self.config.flow_limit),
            "forward": branch_motion(sharp, backward, forward, "forward", self.config.flow_limit),
        }
        features = [quarter.unflatten(0, clip)]
        for branch in self.config.branches:
            features.append(self.propagate(branch, features, motion[direction_of(branch)]))
        reconstruction = self.fuse(torch.cat(features, 2))
        attended = torch.stack([self.attend(x, s) for x, s in zip(reconstruction, selections, strict=True)])
        decoded = self.decode(reconstruction, attended, half.unflatten(0, clip))
        if moving is not None:
            moving = moving.flatten(0, 1)
        restored = self.restore(decoded.flatten(0, 1), full, frames.flatten(0, 1), moving)
        return restored.unflatten(0, clip)[:, :count]

    def encode(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Frames (B, 3, H, W) -> features at full, 1/2 and 1/4 resolution."""
        full = self.concat(frames - 0.5 if self.config.centre_input else frames)
        half = self._repeat("encoder_level1", self.config.half_blocks, self.down01(full))
        quarter = self._repeat("encoder_level2", self.config.quarter_blocks, self.down12(half))
        return full, half, quarter

    def refine(self, backward: Tensor, forward: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """RAFT flows -> blur map (N, T, 1, H/4, W/4), refined flows."""
        blur = blur_map(backward, forward)
        if self.config.refine_flows:
            backward, forward = refine_flows(self.blur_motion_refine, backward, forward, blur)
            blur = blur_map(backward, forward)
        return blur, backward, forward

    def select(self, blur: Tensor) -> list[Selection]:
        """Blur map (N, T, 1, H/4, W/4) -> what each clip attends to."""
        config = self.config
        return [select(c, blocks=config.transformer_blocks, threshold=config.blur_threshold) for c in blur]

    def moving(self, backward: Tensor, forward: Tensor) -> Tensor | None:
        """Refined flows -> what `restore` needs to know of motion, if anything, (N, T, 1 or 5, H/4, W/4).

        Its channels are the share of the change that each place gets and, for the restraint, the flows to the previous
        and to the next frame.
        """
        if self.config.still_motion is None:
            return None
        moving = moving_map(backward, forward, self.config.still_motion, self.config.fast_motion)
        if self.config.followed_share is not None:
            low, high = self.config.followed_share
            share = followed(backward, forward, self.config.flow_limit)
            moving = moving * ((share - low) / (high - low)).clamp(0, 1)
        if not self.config.restraint_channels:
            return moving
        none = torch.zeros_like(forward[:, :1])
        to_previous, to_next = torch.cat((none, forward), 1), torch.cat((backward, none), 1)
        return torch.cat((moving, torch.cat((to_previous, to_next), 2).clamp(-MOTION_LIMIT, MOTION_LIMIT)), 2)

    def propagate(self, branch: str, features: list[Tensor], motion: Tensor) -> Tensor:
        """Run one branch over the clip: features (N, T, C, h, w) each, motion (N, T, 10, h, w) -> (N, T, C, h, w)."""
        align, backbone = self.deform_align[branch], self.backbone[branch]
        assert isinstance(align, DeformableAlignment)
        frames = range(motion.shape[1])
        order = frames if direction_of(branch) == "forward" else frames[::-1]
        state1 = state2 = torch.zeros_like(features[0][:, 0])
        outputs: dict[int, Tensor] = {}
        for t in order:
            known = tuple(feature[:, t] for feature in features)
            outputs[t] = propagation_step(align, backbone, state1, state2, known, motion[:, t])
            state1, state2 = outputs[t], state1
        return torch.stack([outputs[t] for t in frames], 1)

    def fuse(self, features: Tensor) -> Tensor:
        """Encoder and branch features (N, T, (1 + branches) C, h, w) -> reconstruction (N, T, C, h, w)."""
        result: Tensor = self.reconstruction(features)
        return result

    def attend(self, reconstruction: Tensor, selection: Selection) -> Tensor:
        """One clip (T, C, h, w) -> what the sparse transformer adds, (T, C, h, w)."""
        result: Tensor = self.softcomp(self.transsqattn(self.softsplit(reconstruction), selection))
        return result

    def decode(self, reconstruction: Tensor, attended: Tensor, half: Tensor) -> Tensor:
        """Reconstruction and attention (N, T, C, h, w), skip (N, T, D, 2h, 2w) -> features (N, T, D, 2h, 2w)."""
        x = self.lift(reconstruction.flatten(0, 1), attended.flatten(0, 1), half.flatten(0, 1))
        x = x.unflatten(0, reconstruction.shape[:2])
        for block in self.shift_blocks():
            x = block(x)
        return x

    def lift(self, reconstruction: Tensor, attended: Tensor, half: Tensor) -> Tensor:
        """The part of `decode` that knows one frame: (B, C, h, w) twice, skip (B, D, 2h, 2w) -> (B, D, 2h, 2w)."""
        fused = self.cabattn[1](self.cabattn[0](reconstruction, attended))
        result: Tensor = self.up21(fused, self.skip_attn1(half))
        return result

    def shift_blocks(self) -> list[ShiftBlock]:
        """The part of `decode` in which frames exchange features."""
        blocks = (self.get_submodule(_numbered("decoder_level1", i)) for i in range(self.config.shift_blocks))
        return [block for block in blocks if isinstance(block, ShiftBlock)]

    def restore(self, decoded: Tensor, full: Tensor, frames: Tensor, moving: Tensor | None = None) -> Tensor:
        """Decoder features (B, D, H/2, W/2), skip (B, F, H, W), frames (B, 3, H, W) -> sharp frames (B, 3, H, W).

        `moving`: (B, 1 or 5, H/4, W/4), see the method of that name; every place gets all of the change by default.
        """
        x = self.conv_hr0(F.leaky_relu(self.upsample0(decoded), 0.1)) + self.skip_conv(full)
        residual: Tensor = self.last_conv(self.out_conv(x))
        if self.config.residual_limit is not None:
            residual = residual.clamp(-self.config.residual_limit, self.config.residual_limit)
        return frames + (residual if moving is None else self.restrain(residual, decoded, frames, moving))

    def restrain(self, residual: Tensor, decoded: Tensor, frames: Tensor, moving: Tensor) -> Tensor:
        """Change of frames (B, 3, H, W) that `restore` found -> the change that is made; the rest is as there."""
        if self.config.restraint_channels:
            residual = self.restraint(frames, residual, decoded, moving[:, 1:])
            if self.config.residual_limit is not None:
                residual = residual.clamp(-self.config.residual_limit, self.config.residual_limit)
        moved = F.interpolate(moving[:, :1], scale_factor=4, mode="bilinear", align_corners=False)
        change = residual * moved
        if self.config.fine_detail is None:
            return change
        return change * kept_share(frames, change, moved, self.config.fine_detail, self.config.sure_change)

    def _repeat(self, name: str, count: int, x: Tensor) -> Tensor:
        for index in range(count):
            x = self.get_submodule(_numbered(name, index))(x)
        return x


def _numbered(name: str, index: int) -> str:
    return f"{name}_{index}" if index else name


def _pad_clip(frames: Tensor, backward: Tensor, forward: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Continue a clip by reflection in time until its length divides into groups."""
    count = frames.shape[1]
    target = next(t for t in range(max(count, 4), count + 8) if legal_frames(t))
    if target == count:
        return frames, backward, forward
    if count == 1:
        still = frames.new_zeros(frames.shape[0], target - 1, 2, frames.shape[3] // 4, frames.shape[4] // 4)
        return frames.repeat_interleave(target, 1), still, still
    period = 2 * (count - 1)
    index = [min(t % period, period - t % period) for t in range(target)]
    pairs = list(zip(index, index[1:], strict=False))
    ahead = [backward[:, a] if b > a else forward[:, b] for a, b in pairs]
    behind = [forward[:, a] if b > a else backward[:, b] for a, b in pairs]
    # An index list would become a tensor on the host, and its copy would wait for the device.
    return torch.stack([frames[:, t] for t in index], 1), torch.stack(ahead, 1), torch.stack(behind, 1)
