"""What the encoder costs of the packaged network's gain, by quality: mean and worst clip, and size.

    python benchmarks/encoder_cost.py --data DATA     # DATA as made by training, see training/README.md

On all held-out real clips and ten held-out simulated ones. Frames go to 4:2:0 first, in source, truth and result
alike, so that only the encoder's loss is counted.
"""

from __future__ import annotations

import argparse
import dataclasses
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import torch
from edge_quality import DEFAULT_WEIGHTS, load_networks
from torch import Tensor

from bsst.reference.raft import quarter_flow
from bsst.runtime.video.encoder import FAITHFUL
from bsst.training.cache import load
from bsst.training.evaluate import frames_of, psnr
from bsst.training.real import FRESH_CLIPS, HELD_CLIPS, fixed_clip

QUALITIES = (16, 12, 8, 4, 3, 2, 1)
LOSSLESS = {"qp": "0", "preset": "medium"}
SIMULATED = 10


@dataclasses.dataclass
class Cost:
    """Of one quality, over the clips."""

    losses: list[float] = dataclasses.field(default_factory=list)
    """PSNR before the encoder minus after it, dB."""
    shares: list[float] = dataclasses.field(default_factory=list)
    """The encoder's squared error as a share of the network's squared change."""
    size: int = 0


@torch.no_grad()
def main() -> None:
    """Restore every clip once, encode it at every quality."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    data = parser.parse_args().data
    torch.set_num_threads(1)
    net, raft = load_networks(DEFAULT_WEIGHTS)
    pairs = [fixed_clip(data, clip) for clip in (*HELD_CLIPS.values(), *FRESH_CLIPS.values())]
    clips = [load(path) for path in sorted((data / "sim" / "held").glob("??????.npz"))[:SIMULATED]]
    pairs += [(clip.blurry, clip.sharp) for clip in clips]
    costs = {quality: Cost() for quality in QUALITIES}
    lossless = 0
    for pair in pairs:
        blurry, sharp = (_through(frames_of(frames), LOSSLESS)[0] for frames in pair)
        forward, backward = quarter_flow(raft, blurry)
        result = net(blurry[None], backward[None], forward[None])[0]
        restored, size = _through(result, LOSSLESS)
        lossless += size
        change = float((restored - blurry).square().mean())
        for quality, cost in costs.items():
            stored, size = _through(result, {"crf": str(quality), "preset": "medium"} | FAITHFUL)
            cost.losses.append(float((psnr(restored, sharp) - psnr(stored, sharp)).mean()))
            cost.shares.append(float((stored - restored).square().mean()) / max(change, 1e-12))
            cost.size += size
    print(f"{len(pairs)} clips; x264, preset medium, one quantiser for all")
    for quality, cost in costs.items():
        print(f"crf {quality:2}: loss {np.mean(cost.losses):.3f} dB, worst {max(cost.losses):.3f}; error / change "
              f"{np.median(cost.shares):.2f} in the median; {cost.size / lossless:.2f} of lossless")  # fmt: skip


def _through(frames: Tensor, options: dict[str, str]) -> tuple[Tensor, int]:
    """Frames (T, 3, H, W) in [0, 1] through x264 in 4:2:0, and the bytes that took."""
    file = BytesIO()
    pictures = (frames.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=25, options=dict(options))
        stream.height, stream.width, stream.pix_fmt = *pictures.shape[1:3], "yuv420p"
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p", dst_colorspace="ITU709")))
        container.mux(stream.encode(None))
    size = file.tell()
    file.seek(0)
    with av.open(file) as container:
        decoded = [f.reformat(format="rgb24", src_colorspace="ITU709").to_ndarray() for f in container.decode(video=0)]
    return frames_of(np.stack(decoded)), size


if __name__ == "__main__":
    main()
