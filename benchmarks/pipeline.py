"""Does overlap pay? One video through `bsst.deblur` with one and with two clips in flight, in turns.

    python benchmarks/pipeline.py                            # the demo clip with the packaged plan
    python benchmarks/pipeline.py --video holiday.mp4 --picture timeline.svg --trace timeline.json

Each run is a process of its own; medians are reported. The gate comes first: both ways must write the same frames, bit
for bit. The picture shows the last run with two in flight: a row per stream or thread, time to the right. On a CPU the
network takes every core, so only what it leaves idle can be won; read the ratio, and the processor time beside it.
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

TRACKS = ("decode", "flow", "upload", "network", "download", "encode")
COLOURS = ("#4477aa", "#66ccee", "#228833", "#ccbb44", "#ee6677", "#aa3377")
"""Paul Tol's bright scheme, which colour-blind readers can tell apart."""


def main() -> None:
    """Measure both ways in turns, compare, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--video", type=Path, default=ROOT / "tests" / "data" / "city_blurry.mp4")
    parser.add_argument("--plan", type=Path, help="another plan than the packaged one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--picture", type=Path, default=ROOT / "benchmarks" / "pipeline.svg")
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
    options.picture.write_text(_timeline(spans))
    print(f"timeline: {options.picture}")


def _measure(options: argparse.Namespace) -> dict[str, float | str]:
    """One run, written without loss; peak RSS includes the decoder and the encoder."""
    from bsst.runtime.job import deblur
    from bsst.runtime.reader_av import VideoReader
    from bsst.runtime.trace import Trace

    trace = Trace()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.mkv"
        before = time.process_time()
        seconds = deblur(
            options.video, out, options.plan, lossless=True, in_flight=options.in_flight, trace=trace
        ).seconds
        cpu = time.process_time() - before
        # Not getrusage: it starts from the size of the process that was forked.
        rss = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
        with VideoReader(out) as reader:
            digest = hashlib.sha256(b"".join(frame.rgb.tobytes() for frame in reader)).hexdigest()
    trace.write(options.trace)
    return {"wall": seconds, "cpu": cpu, "rss": rss, "digest": digest}


def _timeline(events: list[dict]) -> str:
    """Trace events -> SVG."""
    names = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    spans = [event for event in events if event["ph"] == "X"]
    first = min(span["ts"] for span in spans)
    scale = 1100 / (max(span["ts"] + span["dur"] for span in spans) - first)
    rows = dict(zip(TRACKS, COLOURS, strict=True))
    height = 34 * len(rows) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="1220" height="{height}" font-family="sans-serif"'
        ' font-size="13"><rect width="100%" height="100%" fill="white"/>'
    ]
    for row, name in enumerate(rows):
        busy = sum(span["dur"] for span in spans if names[span["tid"]] == name) / 1e6
        parts.append(f'<text x="8" y="{34 * row + 24}">{name}</text>')
        parts.append(f'<text x="8" y="{34 * row + 37}" font-size="9" fill="#666">{busy:.1f} s busy</text>')
    for span in spans:
        row = TRACKS.index(names[span["tid"]])
        x, width = 100 + (span["ts"] - first) * scale, max(span["dur"] * scale, 0.4)
        parts.append(
            f'<rect x="{x:.2f}" y="{34 * row + 8}" width="{width:.2f}" height="26" fill="{COLOURS[row]}">'
            f"<title>{span['name']} {span['dur'] / 1e3:.1f} ms</title></rect>"
        )
    seconds = 1100 / scale / 1e6
    step = max(1, round(seconds / 10))
    for second in range(0, int(seconds) + 1, step):
        x = 100 + second * 1e6 * scale
        parts.append(f'<path d="M{x:.1f} 6V{height - 26}" stroke="#ccc" stroke-width="0.5"/>')
        parts.append(f'<text x="{x:.1f}" y="{height - 10}" text-anchor="middle" fill="#666">{second} s</text>')
    return "\n".join([*parts, "</svg>\n"])


if __name__ == "__main__":
    main()
