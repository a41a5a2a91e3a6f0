"""Does overlap pay? One video through `bsst.deblur` with one and with two clips in flight, in turns.

    python benchmarks/pipeline.py                            # the demo clip with the packaged plan
    python benchmarks/pipeline.py --video holiday.mp4 --picture timeline.svg --trace timeline.json

Each run is a process of its own; medians are reported. The gate comes first: both ways must write the same frames, bit
for bit. On a CPU the network takes every core, so only what it leaves idle can be won; read the ratio, and the
processor time beside it.

The picture shows the beginning of the last run with two in flight: a row per stream or thread, the share of the time
that it was busy at the right. A clip is one tile of one window.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

TRACKS = ("decode", "upload", "flow", "network", "download", "encode")
GPU_TRACKS = {"onnxruntime flow": "flow", "onnxruntime window": "network"}
"""Streams of ONNX Runtime on a GPU, which belong to these rows."""
LEFT, CHART = 90, 720
"""Pixels for names and for time."""
COLOURS = ("#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#aa3377")
"""Paul Tol's bright scheme, which colour-blind readers can tell apart."""


def main() -> None:
    """Measure both ways in turns, compare, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, default=ROOT / "tests" / "data" / "city_blurry.mp4")
    parser.add_argument("--plan", type=Path, help="another plan than the packaged one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--picture", type=Path, default=ROOT / "benchmarks" / "pipeline.svg")
    parser.add_argument("--clips", type=int, default=4, help="the picture ends with this clip of the network")
    parser.add_argument("--trace", type=Path, help="keep the trace of the picture, for ui.perfetto.dev")
    parser.add_argument("--in-flight", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.in_flight:
        print(json.dumps(_measure(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        trace = options.trace or Path(folder) / "trace.json"
        runs: dict[int, list[dict[str, float | str]]] = {1: [], 2: []}
        for _ in range(options.rounds):
            for in_flight, results in runs.items():
                command = [sys.executable, __file__, "--in-flight", str(in_flight), "--video", str(options.video)]
                command += ["--trace", str(trace)] + (["--plan", str(options.plan)] if options.plan else [])
                results.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        digests = {str(run["digest"]) for results in runs.values() for run in results}
        if len(digests) != 1:
            sys.exit("gate failed: one and two clips in flight give different frames; no figure is printed")
        spans = json.loads(trace.read_text())["traceEvents"]
    medians = {n: {k: statistics.median(r[k] for r in rs) for k in ("wall", "cpu", "rss")} for n, rs in runs.items()}
    print(f"gate passed: the same frames; {options.video.name}, median of {options.rounds} runs in turns")
    for in_flight, m in medians.items():
        print(
            f"{in_flight} in flight  {m['wall']:7.2f} s, {m['cpu']:7.2f} s of processors, peak RSS {m['rss']:6.0f} MB"
        )
    print(f"with two in flight it is {medians[1]['wall'] / medians[2]['wall']:.3f} times as fast")
    options.picture.write_text(_timeline(spans, options.clips))
    print(f"timeline: {options.picture}")


def _measure(options: argparse.Namespace) -> dict[str, float | str]:
    """One run, written without loss; peak RSS includes the decoder and the encoder."""
    from bsst.runtime.job import deblur
    from bsst.runtime.jobs.options import Execution, OutputFormat
    from bsst.runtime.jobs.report import Observer
    from bsst.runtime.trace import Trace
    from bsst.runtime.video.reader import VideoReader

    trace = Trace()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.mkv"
        before = time.process_time()
        seconds = deblur(
            options.video,
            out,
            options.plan,
            output_format=OutputFormat(lossless=True),
            execution=Execution(in_flight=options.in_flight),
            observer=Observer(trace=trace),
        ).seconds
        cpu = time.process_time() - before
        # Not getrusage: it starts from the size of the process that was forked.
        rss = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
        with VideoReader(out) as reader:
            digest = hashlib.sha256(b"".join(frame.rgb.tobytes() for frame in reader)).hexdigest()
    trace.write(options.trace)
    return {"wall": seconds, "cpu": cpu, "rss": rss, "digest": digest}


def _timeline(events: list[dict], clips: int) -> str:
    """Trace events -> SVG of the first clips: a row per track, the share of the time that it was busy at the right."""
    names = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    names = {tid: GPU_TRACKS.get(name, name) for tid, name in names.items()}
    spans = sorted((event for event in events if event["ph"] == "X"), key=lambda event: event["ts"])
    tracks = {track: [span for span in spans if names[span["tid"]] == track] for track in TRACKS}
    network = _clips(tracks["network"])
    first, last = spans[0]["ts"], max(span["ts"] + span["dur"] for span in network[:clips][-1])
    scale = CHART / (last - first)
    height = 34 * len(TRACKS) + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + CHART + 60}" height="{height}"'
        ' font-family="sans-serif" font-size="13"><rect width="100%" height="100%" fill="white"/>'
    ]
    step = next(s for s in (0.001, 0.01, 0.1, 0.5, 1, 2, 5, 10, 20, 60) if (last - first) / 1e6 / s <= 10)
    for mark in range(int((last - first) / 1e6 / step) + 1):
        x = LEFT + mark * step * 1e6 * scale
        parts.append(f'<path d="M{x:.1f} 6V{height - 26}" stroke="#ccc" stroke-width="1"/>')
        parts.append(f'<text x="{x:.1f}" y="{height - 10}" text-anchor="middle" fill="#666">{mark * step:g} s</text>')

    def block(row: int, start: float, end: float, shade: float) -> str:
        x, width = LEFT + (start - first) * scale, max((end - start) * scale, 1)
        box = f'x="{x:.1f}" y="{34 * row + 8}" width="{width:.1f}" height="26"'
        return f'<rect {box} fill="{COLOURS[row]}" fill-opacity="{shade}"/>'

    for row, track in enumerate(TRACKS):
        busy = sum(max(0.0, min(span["ts"] + span["dur"], last) - span["ts"]) for span in tracks[track])
        parts.append(f'<text x="8" y="{34 * row + 26}">{track}</text>')
        share = f"{busy / (last - first):.0%}" if busy > 0.01 * (last - first) else "&lt;1%"
        parts.append(f'<text x="{LEFT + CHART + 8}" y="{34 * row + 26}" fill="#666">{share}</text>')
        for count, group in enumerate(network if track == "network" else [tracks[track]], start=1):
            shown = _merged([span for span in group if span["ts"] < last], 1 / scale)
            parts += [block(row, start, min(end, last), 0.6 if count % 2 == 0 else 1) for start, end in shown]
            if track == "network" and shown:
                middle = LEFT + ((shown[0][0] + shown[-1][1]) / 2 - first) * scale
                parts.append(f'<text x="{middle:.1f}" y="{34 * row + 26}" text-anchor="middle">clip {count}</text>')
    return "\n".join([*parts, "</svg>\n"])


def _clips(spans: list[dict]) -> list[list[dict]]:
    """Cut the calls of the network where its first stage comes again after another one."""
    calls = [span for span in spans if span["name"] != "upload"]  # of zeros, once
    clips: list[list[dict]] = []
    for index, call in enumerate(calls):
        if index == 0 or call["name"] == calls[0]["name"] != calls[index - 1]["name"]:
            clips.append([])
        clips[-1].append(call)
    return clips


def _merged(spans: list[dict], gap: float) -> list[tuple[float, float]]:
    """(start, end) of what cannot be told apart in the picture."""
    merged: list[tuple[float, float]] = []
    for span in spans:
        start, end = span["ts"], span["ts"] + span["dur"]
        if merged and start - merged[-1][1] < gap:
            start, end = merged.pop()[0], end
        merged.append((start, end))
    return merged


if __name__ == "__main__":
    main()
