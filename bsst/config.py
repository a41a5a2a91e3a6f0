"""Network configurations: frozen, documented, and the only place where a width is written down.

`RELEASE` reproduces the released network tensor by tensor; `EDGE` is the same code with small widths.
A plan carries its configuration as JSON (`to_json`), so this module needs neither torch nor onnx.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from bsst.errors import UsageError

__all__ = ["CONFIGS", "EDGE", "RELEASE", "NetworkConfig", "RaftConfig", "config_from_json"]


@dataclass(frozen=True, kw_only=True)
class RaftConfig:
    """RAFT optical flow, run on frames halved in both dimensions (specification section 5)."""

    stage_channels: tuple[int, int, int] = (64, 96, 128)
    """Widths of the three residual stages of both encoders; the stem has the first width."""
    blocks_per_stage: int = 2
    """Residual blocks per stage; the first one of stages 2 and 3 halves the grid."""
    feature_channels: int = 256
    """Channels of the matching features whose products form the correlation volume."""
    hidden_channels: int = 128
    """Channels of the recurrent state."""
    context_channels: int = 128
    """Channels of the context fed to every update."""
    levels: int = 4
    """Levels of the correlation pyramid; the coarsest must be at least 2x2 tokens."""
    radius: int = 4
    """Correlation is read in a (2 radius + 1)^2 window per level."""
    correlation_channels: tuple[int, int] = (256, 192)
    """Widths of the two convolutions on the correlation in the motion encoder."""
    flow_channels: tuple[int, int] = (128, 64)
    """Widths of the two convolutions on the flow in the motion encoder."""
    motion_channels: int = 128
    """Channels of the motion features, the two flow channels included."""
    head_channels: int = 256
    """Hidden width of the flow head and of the upsampling mask head."""
    iterations: int = 20
    """Update steps; only the last flow is used."""

    @property
    def frame_multiple(self) -> int:
        """Frame height and width must be multiples of this."""
        return 16

    @property
    def frame_minimum(self) -> int:
        """Smallest frame side for which the coarsest correlation level has 2 tokens."""
        return 16 * 2**self.levels


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """BSSTNet and the flow network in front of it (specification sections 1 to 13)."""

    name: str
    """Name shown to users; part of the plan manifest."""
    full_channels: int = 64
    """Features at full resolution."""
    half_channels: int = 64
    """Features at 1/2 resolution."""
    channels: int = 192
    """Features at 1/4 resolution: propagation, reconstruction, fusion."""
    half_blocks: int = 2
    """Channel attention blocks of the encoder at 1/2."""
    quarter_blocks: int = 2
    """Channel attention blocks of the encoder at 1/4."""
    compact: bool = False
    """Layers of `bsst.reference.compact` in place of the released ones."""
    decoder_blocks: tuple[int, int] = (0, 0)
    """Blocks of the compact decoder at 1/4 and at 1/2 resolution."""
    centre_input: bool = False
    """Subtract 0.5 from the frame before the encoder; the released weights were trained without."""
    refine_flows: bool = True
    """Refine the RAFT flows with the flow refinement network (section 8)."""
    branches: tuple[str, ...] = ("backward_1", "forward_1", "backward_2", "forward_2")
    """Propagation branches in run order; the direction is the part before the underscore."""
    offset_channels: int = 192
    """Hidden width of the offset head of the guided deformable convolution."""
    offset_groups: int = 16
    """Deformable groups; the first half samples the previous state, the second half the one before."""
    offset_range: float = 5.0
    """Largest learned offset around the flow, in pixels at 1/4 scale."""
    reconstruction_groups: int = 2
    """Residual groups of two window transformer blocks; 0 leaves only the grouped convolution."""
    reconstruction_heads: int = 6
    """Heads of the (2, 8, 8) window attention."""
    transformer_blocks: int = 4
    """Blur-aware sparse transformer blocks."""
    token_channels: int = 512
    """Channels of a token of the sparse transformer."""
    token_heads: int = 4
    """Heads of the sparse window attention."""
    ffn_channels: int = 40
    """Channels of the overlapping-patch feed-forward network before unfolding (x25 after)."""
    shift_blocks: int = 2
    """Grouped spatial-temporal shift blocks of the decoder."""
    flow_limit: float | None = None
    """Largest flow component that is believed, in pixels at 1/4 scale; a neighbour beyond it is switched off."""
    gate_inconsistent: bool = False
    """Switch a neighbour off where its forward and backward flows disagree."""
    state_limit: float | None = None
    """Largest absolute value in a propagation state: bounds the recurrence at any clip length."""
    residual_limit: float | None = None
    """Largest change of a pixel, in display values from 0 to 1."""
    still_motion: tuple[float, float] | None = None
    """Motion in pixels at 1/4 scale up to which a place is left alone, and from which it is changed in full: what does
    not move is not blurred by motion."""
    fast_motion: tuple[float, float] | None = None
    """Motion in the same unit up to which a place is changed in full, and from which it is left alone: faster than
    anything in training. It needs `still_motion`."""
    followed_share: tuple[float, float] | None = None
    """Share of a clip's places whose flows agree, up to which the clip is left alone, and from which it is changed in
    full: where flows are wrong nearly everywhere, so is the change. It needs `still_motion`."""
    detail: tuple[float, float] | None = None
    """Detail of what moves (`Restraint.detail_of`) up to which a frame is left alone, and from which it is changed in
    full: a picture with next to none is smooth or blurred, and nothing in it tells which. It needs the restraint."""
    fine_detail: tuple[float, float] | None = None
    """Finest detail of what moves, root mean square in grey levels of 255, up to which a faint change of a frame is
    dropped (`kept_share`), and from which any is kept: an enlarged picture has none, and no blur to remove."""
    sure_change: float = 3.0
    """Root mean square of a change, in the same unit, of which half is kept where there is no fine detail."""
    restraint_channels: int = 0
    """Channels of the network that says how far the change is trusted at each place; 0 leaves it out. It needs
    `still_motion`."""
    blur_threshold: float = 0.3
    """A window attends sparsely where its mean blur exceeds this."""
    raft: RaftConfig = field(default_factory=RaftConfig)
    """Flow network."""

    @property
    def tile_multiple(self) -> int:
        """Tile height and width must be multiples of this: 8x8 windows of tokens at 1/8 scale."""
        return 64

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary for the plan manifest; `config_from_json` reads it back."""
        return dataclasses.asdict(self)


LARGEST_VALUE, MOST_ENTRIES = 4096, 64


def config_from_json(data: dict[str, Any]) -> NetworkConfig:
    """Rebuild a configuration from a manifest.

    Raises:
        UsageError: a field is missing, unknown, of another type, or beyond what any network here could have.
    """
    try:
        raft = RaftConfig(**{k: _tuples(v) for k, v in data["raft"].items()})
        rest = {k: _tuples(v) for k, v in data.items() if k != "raft"}
        if rest.get("tie_rule") == "lowest":  # the only rule left, which weights and plans made before state
            del rest["tie_rule"]
        config = NetworkConfig(**rest, raft=raft)
        for part, like in ((config, RELEASE), (raft, RELEASE.raft)):
            for field in dataclasses.fields(part):
                value, usual = getattr(part, field.name), getattr(like, field.name)
                if usual is None:  # a limit that the released network does not have
                    usual = value if value is None else getattr(EDGE, field.name)
                if value is not None or usual is not None:
                    _require_like(field.name, value, usual)
        return config
    except (KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"expected a network configuration written by this version of bsst, got {error}; export it again"
        ) from error


def _require_like(name: str, value: Any, like: Any) -> None:
    """Refuse what would take for ever to build, or is no value of its field at all."""
    entries = value if isinstance(value, tuple) else (value,)
    kinds = {type(entry) for entry in like} if isinstance(like, tuple) else {type(like)}
    fits = isinstance(value, tuple) == isinstance(like, tuple) and len(entries) <= MOST_ENTRIES
    if str not in kinds and isinstance(like, tuple):  # only the branches may be more or fewer
        fits = fits and len(entries) == len(like)
    fits = fits and all(type(entry) in kinds or (float in kinds and type(entry) is int) for entry in entries)
    if not fits or any(isinstance(e, int | float) and not 0 <= e <= LARGEST_VALUE for e in entries):
        raise UsageError(
            f"expected {name} of a network configuration like {like}, at most {LARGEST_VALUE}, got {ascii(value)[:80]}"
        )


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


RELEASE = NetworkConfig(name="release")

EDGE = NetworkConfig(
    name="edge",
    half_channels=32,
    channels=48,
    half_blocks=2,
    quarter_blocks=2,
    compact=True,
    decoder_blocks=(5, 3),
    centre_input=True,
    refine_flows=False,
    branches=("backward_1", "forward_1"),
    offset_channels=32,
    offset_groups=4,
    reconstruction_groups=0,
    reconstruction_heads=2,
    transformer_blocks=1,
    token_channels=64,
    token_heads=2,
    ffn_channels=4,
    shift_blocks=0,
    flow_limit=12.0,
    gate_inconsistent=True,
    state_limit=8.0,
    residual_limit=0.4,
    still_motion=(0.2, 0.8),
    fast_motion=(12.0, 18.0),
    followed_share=(0.05, 0.09),
    detail=(3.8, 4.8),
    fine_detail=(1.8, 2.8),
    restraint_channels=24,
    raft=RaftConfig(
        stage_channels=(24, 32, 48),
        blocks_per_stage=1,
        feature_channels=64,
        hidden_channels=48,
        context_channels=48,
        levels=3,
        radius=3,
        correlation_channels=(64, 48),
        flow_channels=(32, 16),
        motion_channels=48,
        head_channels=64,
        iterations=6,
    ),
)

CONFIGS = {config.name: config for config in (RELEASE, EDGE)}
