"""A VapourSynth filter: `bsst.vapoursynth.deblur(clip)` in a script.

    clip = core.bs.VideoSource("holiday.mp4")
    clip = core.resize.Bicubic(clip, format=vs.RGBS, matrix_in_s="709")
    clip = bsst.vapoursynth.deblur(clip)
    core.resize.Bicubic(clip, format=vs.YUV420P8, matrix_s="709").set_output()

Colours are the business of the script, as everywhere in VapourSynth.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bsst.errors import InputError, MissingDependencyError
from bsst.plan.archive import open_plan
from bsst.runtime.frames.fit import fitting_plan
from bsst.runtime.network.network import DEFAULT_PLAN, load_network
from bsst.runtime.random_access import RandomAccess
from bsst.runtime.restore import Tiling

__all__ = ["deblur"]


def deblur(
    clip: Any,
    plan: str | Path | None = None,
    *,
    threads: int = 0,
    window_overlap: int | None = None,
    tile_overlap: int | None = None,
    scene_cuts: bool = True,
    guard: bool = True,
) -> Any:
    """Deblur a clip.

    Frames may be asked for in any order; they are those of the whole clip restored from its start. A seek restores one
    window before it can answer; with `scene_cuts` it also looks at all frames before it, once.

    Args:
        clip: `vapoursynth.VideoNode` of format RGBS and of constant size.
        plan: plan file; None for the packaged one.
        threads: CPU threads of ONNX Runtime; 0 for all cores.
        window_overlap: see `bsst.Tiling`.
        tile_overlap: see `bsst.Tiling`.
        scene_cuts: see `bsst.Tiling`.
        guard: see `bsst.Tiling`.

    Returns:
        A clip of the same format, length and frame properties.

    Raises:
        MissingDependencyError: VapourSynth is not installed.
        InputError: a clip of another format.
        BsstError: the plan does not run here.
    """
    try:
        import vapoursynth as vs
    except ImportError as error:
        raise MissingDependencyError("vapoursynth (Python 3.12 on)", "vapoursynth", "the filter") from error
    if not isinstance(clip, vs.VideoNode):
        raise InputError(
            f"expected a VapourSynth clip of video, got {type(clip).__name__}; give what a source filter returns"
        )
    if clip.format is None or clip.format.id != vs.RGBS or not clip.width or not clip.height:
        found = "a variable format" if clip.format is None else f"{clip.format.name}, {clip.height}x{clip.width}"
        raise InputError(
            f"expected a clip of format RGBS and constant size, got {found}; "
            "use core.resize.Bicubic(clip, format=vs.RGBS, matrix_in_s='709')"
        )
    # One clip in flight does everything in the thread of the request. While that waits for source frames VapourSynth
    # lends another thread; frames that a thread of ours asked for would never come once all of its own wait for us.
    opened = open_plan(DEFAULT_PLAN if plan is None else Path(plan))
    fitting = fitting_plan(opened, clip.height, clip.width, overlap=tile_overlap)
    network = load_network(fitting, threads=threads, in_flight=1)
    tiling = Tiling(window_overlap=window_overlap, tile_overlap=tile_overlap, scene_cuts=scene_cuts, guard=guard)

    def read(index: int) -> np.ndarray:
        with clip.get_frame(index) as frame:
            return np.stack([np.asarray(frame[plane]) for plane in range(3)])

    frames = RandomAccess(read, clip.num_frames, network, tiling)

    def close() -> None:
        frames.close()
        network.close()

    vs.register_on_destroy(close)

    def restored(n: int, f: Any) -> Any:
        result = f.copy()
        for plane, values in enumerate(frames.frame(n)):
            np.copyto(np.asarray(result[plane]), values)
        return result

    return clip.std.ModifyFrame(clips=clip, selector=restored)
