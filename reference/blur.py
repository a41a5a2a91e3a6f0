"""Blur maps, flow composition and flow validity (specification sections 7 and 9.2)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from bsst.plugins.flow_warp import flow_warp

__all__ = ["MOTION_CHANNELS", "Direction", "blur_map", "branch_motion", "flow_validity", "followed", "moving_map"]

Direction = Literal["backward", "forward"]

MOTION_CHANNELS = 10
"""Channels of the motion maps: nine condition channels, then 1 where a previous frame exists."""


def blur_map(backward: Tensor, forward: Tensor) -> Tensor:
    """Blur of each pixel from the magnitude of its flows, normalised over the clip.

    Args:
        backward: flow of frame t to t + 1, (N, T-1, 2, H, W), pixels at this scale.
        forward: flow of frame t + 1 to t, same shape.

    Returns:
        (N, T, 1, H, W) in [0, 1]; zeros for a clip whose flow magnitude is constant.
    """
    to_next = backward.square().sum(2, keepdim=True)
    to_previous = forward.square().sum(2, keepdim=True)
    inner = (to_next[:, 1:] + to_previous[:, :-1]) / 2
    magnitude = torch.cat((to_next[:, :1], inner, to_previous[:, -1:]), 1)
    low = magnitude.amin((1, 2, 3, 4), keepdim=True)
    extent = magnitude.amax((1, 2, 3, 4), keepdim=True) - low
    flat = extent <= 0
    return torch.where(flat, 0.0, (magnitude - low) / torch.where(flat, 1.0, extent))


def moving_map(
    backward: Tensor, forward: Tensor, still: tuple[float, float], fast: tuple[float, float] | None = None
) -> Tensor:
    """0 where a frame does not move, or moves faster than can be followed, 1 in between.

    Args:
        backward: flow of frame t to t + 1, (N, T-1, 2, H, W), pixels at this scale.
        forward: flow of frame t + 1 to t, same shape.
        still: motion up to which the map is 0, and from which it is 1, linear in between.
        fast: motion up to which the map is 1, and from which it is 0 again.

    Returns:
        (N, T, 1, H, W) in [0, 1]; each place counts the fastest motion within two pixels, to and from both neighbours.
    """
    to_next, to_previous = (flow.square().sum(2, keepdim=True).sqrt() for flow in (backward, forward))
    inner = torch.maximum(to_next[:, 1:], to_previous[:, :-1])
    motion = torch.cat((to_next[:, :1], inner, to_previous[:, -1:]), 1)
    near = F.max_pool2d(motion.flatten(0, 1), 5, 1, 2).unflatten(0, motion.shape[:2])
    moving = ((near - still[0]) / (still[1] - still[0])).clamp(0, 1)
    return moving if fast is None else moving * ((fast[1] - near) / (fast[1] - fast[0])).clamp(0, 1)


def flow_validity(flow: Tensor, check: Tensor, limit: float | None = None) -> Tensor:
    """1 where a flow and the check flow at its target cancel, else 0.

    Args:
        flow: (N, 2, H, W) pixels.
        check: flow of the opposite direction, (N, 2, H, W).
        limit: flows with a component of this size or more are not valid.

    Returns:
        (N, 1, H, W), 0 or 1.
    """
    returned = flow_warp(check, flow)
    gap = (flow + returned).square().sum(1, keepdim=True)
    scale = flow.square().sum(1, keepdim=True) + returned.square().sum(1, keepdim=True)
    valid = (gap < 0.01 * scale + 0.5).to(flow.dtype)
    return valid if limit is None else valid * (flow.abs().amax(1, keepdim=True) < limit).to(flow.dtype)


def followed(backward: Tensor, forward: Tensor, limit: float | None = None) -> Tensor:
    """Share of a clip's places whose flows to a neighbour and back cancel.

    Args:
        backward: flow of frame t to t + 1, (N, T-1, 2, H, W), pixels at this scale.
        forward: flow of frame t + 1 to t, same shape.
        limit: flows with a component of this size or more do not count.

    Returns:
        (N, 1, 1, 1, 1) in [0, 1]; a place counts where one of its neighbours, the previous or the next frame, does.
    """
    clip = backward.shape[:2]
    first, second = backward.flatten(0, 1), forward.flatten(0, 1)
    to_next, to_previous = (
        flow_validity(*pair, limit).unflatten(0, clip) for pair in ((first, second), (second, first))
    )
    none = torch.zeros_like(to_next[:, :1])
    either = torch.maximum(torch.cat((to_next, none), 1), torch.cat((none, to_previous), 1))
    return either.mean((1, 2, 3, 4), keepdim=True)


def branch_motion(
    sharp: Tensor, backward: Tensor, forward: Tensor, direction: Direction, limit: float | None = None
) -> Tensor:
    """Everything a propagation step needs besides features, for all frames at once.

    Per frame t with t1, t2 = the frames visited one and two steps earlier: the sharp map of t1 warped to t, the sharp
    map of t, the one of t2 warped to t, the validity of both flows, the flow to t1 and the composed flow to t2, and 1
    if t1 exists. Maps and flows that need a missing frame are zero.

    Args:
        sharp: 1 - blur map, (N, T, 1, H, W).
        backward: flow of frame t to t + 1, (N, T-1, 2, H, W), pixels at this scale.
        forward: flow of frame t + 1 to t, same shape.
        direction: "forward" visits frames 0 ... T-1, "backward" T-1 ... 0.
        limit: flows are clamped to it and count as invalid from there on; None leaves them alone.

    Returns:
        (N, T, 10, H, W) in frame order.
    """
    n, t, _, h, w = sharp.shape
    if limit is not None:
        backward, forward = backward.clamp(-limit, limit), forward.clamp(-limit, limit)
    flow, check = (forward, backward) if direction == "forward" else (backward, forward)
    if direction == "backward":  # work in visiting order, flip back at the end
        sharp, flow, check = sharp.flip(1), flow.flip(1), check.flip(1)

    first, first_check = flow.flatten(0, 1), check.flatten(0, 1)
    warped = flow_warp(sharp[:, :-1].flatten(0, 1), first)
    valid = flow_validity(first, first_check, limit)
    one = torch.cat((warped, valid, first), 1).unflatten(0, (n, t - 1))

    later, later_check = flow[:, 1:].flatten(0, 1), check[:, 1:].flatten(0, 1)
    second = later + flow_warp(flow[:, :-1].flatten(0, 1), later)
    second_check = later_check + flow_warp(check[:, :-1].flatten(0, 1), later_check)
    warped = flow_warp(sharp[:, :-2].flatten(0, 1), second)
    valid_second = flow_validity(second, second_check, limit)
    if limit is not None:  # a clamped step must not pass for a valid one because a second step leads back
        reached = valid.unflatten(0, (n, t - 1))
        valid_second = valid_second * reached[:, 1:].flatten(0, 1)
        valid_second = valid_second * (flow_warp(reached[:, :-1].flatten(0, 1), later) > 0.5).to(valid.dtype)
    valid = valid_second
    two = torch.cat((warped, valid, second), 1).unflatten(0, (n, t - 2))

    one = torch.cat((one.new_zeros(n, 1, 4, h, w), one), 1)
    two = torch.cat((two.new_zeros(n, 2, 4, h, w), two), 1)
    exists = torch.cat((one.new_zeros(n, 1, 1, h, w), one.new_ones(n, t - 1, 1, h, w)), 1)
    motion = torch.cat(
        (one[:, :, :1], sharp, two[:, :, :1], one[:, :, 1:2], two[:, :, 1:2], one[:, :, 2:], two[:, :, 2:], exists), 2
    )
    return motion.flip(1) if direction == "backward" else motion
