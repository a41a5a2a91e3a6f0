"""The PyTorch reference on a GPU: equal to the golden tensors, then milliseconds and memory per frame; see `gpu.py`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bsst.config import CONFIGS
from bsst.reference.bsstnet import BSSTNet
from bsst.reference.compact import make_network
from bsst.reference.raft import RAFT, quarter_flow
from bsst.training.steps import captured
from tests.golden_inputs import flows, video, weight

DATA = Path(__file__).parents[1] / "tests" / "data"
PRECISIONS = ("float32", "TF32", "bfloat16")
GOLDEN_TOLERANCE = {"float32": 1e-3, "TF32": 1e-1, "bfloat16": 1.0}
"""Largest difference of the output, where pixels range from 0 to 1: a gate for float32, a sanity check for the rest."""


def golden() -> Iterator[str]:
    """One line a precision: the released network with seeded weights against its stored outputs."""
    network, raft = _seeded("release")
    stored, stored_flow = np.load(DATA / "bsst_T6_seed1.npz"), np.load(DATA / "raft_T3_seed1.npz")
    frames, forward, backward = (_tensor(x)[None] for x in (video(6, 256, 256, seed=1), *flows(6, 64, 64, seed=1)))
    for name in PRECISIONS:
        with torch.no_grad(), _precision(name):
            out = network(frames, backward, forward)[0].float().cpu().numpy()
            found = quarter_flow(raft, _tensor(video(3, 256, 256, seed=1)))
        error = np.abs(out[:, :, ::4, ::4] - stored["output_stride4"])
        flow = max(
            float(np.abs(f.float().cpu().numpy() - stored_flow[key]).max())
            for f, key in zip(found, ("flow_forward", "flow_backward"), strict=True)
        )
        verdict = "" if error.max() <= GOLDEN_TOLERANCE[name] else "FAILED: "
        psnr = -10 * np.log10(np.square(error).mean() + 1e-20)
        yield f"{verdict}golden {name}: output within {error.max():.1e} ({psnr:.0f} dB), flow within {flow:.1e} px"


def speed(small: bool) -> Iterator[str]:
    """Rows of the table of `gpu.py`: medians of five runs, of three where one takes a second."""
    sizes = [("edge", 4, 1)] if small else [("release", 12, 5), ("edge", 12, 5), ("release", 48, 3)]
    side = 64 if small else 256
    for name, count, repeat in sizes:
        network, raft = _seeded(name)
        frames = _tensor(video(count, side, side, seed=2))
        forward, backward = (_tensor(x) for x in flows(count, side // 4, side // 4, seed=2))

        def restore(network: Any = network, inputs: Any = (frames[None], backward[None], forward[None])) -> Any:
            return network(*inputs)

        def estimate(raft: Any = raft, frames: Any = frames) -> Any:
            return quarter_flow(raft, frames)

        for precision in PRECISIONS[:1] if small else PRECISIONS:
            with torch.no_grad(), _precision(precision):
                if torch.cuda.is_available():
                    torch.cuda.reset_peak_memory_stats()
                eager = _milliseconds(restore, repeat) / count
                memory = f"{torch.cuda.max_memory_allocated() / 1e9:.2f} GB" if torch.cuda.is_available() else ""
                graph = (
                    f"{_milliseconds(captured(restore, warm_up=1), repeat) / count:.2f}"
                    if torch.cuda.is_available()
                    else ""
                )
                flow = _milliseconds(estimate, repeat) / count
            yield f"| {name} {side}x{side} | {count} | {precision} | {eager:.2f} | {graph} | {flow:.2f} | {memory} |"


def _milliseconds(work: Callable[[], Any], repeat: int) -> float:
    times = []
    for _ in range(repeat + 1):  # the first run warms up
        _finish()
        started = time.perf_counter()
        work()
        _finish()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times[1:])


def _finish() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _precision(name: str) -> AbstractContextManager[Any]:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name != "float32"
    if name != "bfloat16":
        return nullcontext()
    return torch.autocast(_device().type, torch.bfloat16, cache_enabled=False)


def _seeded(name: str) -> tuple[BSSTNet, RAFT]:
    config = CONFIGS[name]
    network, raft = make_network(config).eval(), RAFT(config.raft).eval()
    for module, prefix in ((network, ""), (raft, "raft.")):
        state = {k: torch.as_tensor(weight(f"{prefix}{k}", tuple(v.shape))) for k, v in module.state_dict().items()}
        module.load_state_dict(state)
    return network.to(_device()).requires_grad_(False), raft.to(_device()).requires_grad_(False)


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).to(_device())


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
