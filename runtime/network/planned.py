"""What a job must know of a plan that others run: nothing is loaded, and no device is taken."""

from __future__ import annotations

from bsst.plan.archive import Plan

__all__ = ["Planned"]


class Planned:
    """A plan by its manifest; the names are those of `Restorer` and `Network`.

    Args:
        plan: in the shape of tiles that the job takes.
    """

    def __init__(self, plan: Plan) -> None:
        self.manifest = manifest = plan.manifest
        self.plan_key = manifest.content_key
        self.frames, self.window_overlap, self.tile = manifest.frames, manifest.window_overlap, manifest.tile
        self.on_gpu = manifest.target != "cpu"
        self.line = f"plan of target {manifest.target}"
