"""What precision costs on real clips: the README's table of fp32, fp16, bf16 and int8.

    bsst-calibrate PLAN tests/data/city_blurry.mp4 -o ranges.json
    python benchmarks/precision.py ranges.json [--plan PLAN] [--data DIR]

Restores the middle window of the clip in `tests/data` and, with --data, the held-out clips of `bsst.reference.training`
in every precision, on ONNX Runtime, which emulates 16-bit arithmetic (`bsst.calibration.emulate_half`). All stages that
int8 knows are quantised. Gate: fp32 must give the same frames twice. Bytes are those of the graphs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

from bsst.calibration.calibrate import sample_size
from bsst.calibration.clip_parity import clip_flows, psnr, restore_crop
from bsst.calibration.emulate_half import emulate_half
from bsst.calibration.half import HalfType, feature_tensors, to_half
from bsst.calibration.int8 import to_int8
from bsst.calibration.int8_placement import INT8_STAGES, plain_graph
from bsst.calibration.ranges import Ranges, read_ranges, require_plan
from bsst.calibration.samples import Sample, clip_record, read_samples
from bsst.engines.plan import Plan, open_plan
from bsst.plugins.registry import lower
from bsst.runtime import metrics
from bsst.runtime.network import DEFAULT_PLAN, host_network
from bsst.runtime.session_ort import OrtSession

PRECISIONS: dict[str, tuple[HalfType | None, bool]] = {
    "fp32": (None, False),
    "fp16": ("float16", False),
    "bf16": ("bfloat16", False),
    "int8": (None, True),
    "int8, rest fp16": ("float16", True),
}
CITY = Path(__file__).parents[1] / "tests" / "data"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ranges", type=Path)
    parser.add_argument("--plan", type=Path, default=DEFAULT_PLAN)
    parser.add_argument("--data", type=Path)
    arguments = parser.parse_args()
    plan, ranges = open_plan(arguments.plan), read_ranges(arguments.ranges)
    require_plan(ranges, plan.manifest)
    samples = list(_samples(plan, arguments.data))
    exact = {stage.name: onnx.load_from_string(plan.member(stage.name)) for stage in plan.manifest.stages}
    expected = [frames for frames, _ in _restored(plan, exact, samples)]
    print("| precision | clip | PSNR to fp32 | PSNR to truth | SSIM to truth | NaN | bytes |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for name, (half, int8) in PRECISIONS.items():
        models = {stage: _converted(stage, model, half, int8, ranges) for stage, model in exact.items()}
        size = sum(len(model.SerializeToString()) for model in models.values())
        emulated = {stage: emulate_half(model) if half else model for stage, model in models.items()}
        for sample, want, (got, _) in zip(samples, expected, _restored(plan, emulated, samples), strict=True):
            if name == "fp32" and not np.array_equal(got, want):
                raise SystemExit(f"{sample.name}: expected the same frames twice, got others")
            to_fp32 = "same" if name == "fp32" else f"{psnr(want, got, 1.0):.1f} dB"
            scores = [f"{score:.4f}" for score in _scores(sample, got)]
            invalid = np.count_nonzero(~np.isfinite(got))
            print(f"| {name} | {sample.name} | {to_fp32} | {' | '.join(scores)} | {invalid} | {size:,} |", flush=True)


def _samples(plan: Plan, data: Path | None) -> Iterator[Sample]:
    frames, size = plan.manifest.frames, sample_size(plan.manifest)
    record = clip_record(CITY / "city_blurry.mp4", CITY / "city_sharp.mp4")
    *_, last = read_samples([record], frames=frames, size=size, windows=2)
    yield last
    if data is None:
        return
    from bsst.reference.training.real import HELD_CLIPS, fixed_clip

    for name, clip in HELD_CLIPS.items():
        blurry, sharp = (_fitted(pictures, frames, size) for pictures in fixed_clip(data, clip))
        yield Sample(name=name, blurry=blurry, sharp=sharp)


def _fitted(pictures: np.ndarray, frames: int, size: tuple[int, int]) -> np.ndarray:
    """(n, h, w, 3) uint8 -> (frames, 3, *size) float32, mirrored where it is too small."""
    clip = pictures[:frames].transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255)
    grow = [(0, max(0, want - got)) for want, got in zip((frames, 3, *size), clip.shape, strict=True)]
    return np.ascontiguousarray(np.pad(clip, grow, mode="symmetric")[..., : size[0], : size[1]])


def _converted(
    stage: str, model: onnx.ModelProto, half: HalfType | None, int8: bool, ranges: Ranges
) -> onnx.ModelProto:
    if int8 and stage in INT8_STAGES:
        model = to_int8(plain_graph(model), ranges.tensors[stage], stage=stage)
    elif half:
        model = lower(model, "tensorrt-rtx")
    return to_half(model, half, half_tensors=feature_tensors(model)) if half else model


def _restored(
    plan: Plan, models: dict[str, onnx.ModelProto], samples: list[Sample]
) -> Iterator[tuple[np.ndarray, Sample]]:
    sessions = {name: OrtSession(name, model.SerializeToString(), threads=0) for name, model in models.items()}
    with host_network(plan.manifest, sessions) as network:
        for sample in samples:
            yield restore_crop(network, sample.blurry, clip_flows(network, sample.blurry)), sample


def _scores(sample: Sample, got: np.ndarray) -> tuple[float, float]:
    """PSNR and SSIM of 8-bit frames, means over frames."""
    assert sample.sharp is not None
    height, width = got.shape[2:]
    pairs = [
        (metrics.to_uint8(truth[:, :height, :width]), metrics.to_uint8(frame))
        for truth, frame in zip(sample.sharp, got, strict=True)
    ]
    return float(np.mean([metrics.psnr(*pair) for pair in pairs])), float(
        np.mean([metrics.ssim(*pair) for pair in pairs])
    )


if __name__ == "__main__":
    main()
