"""What segments cost against one plain pass: a job in segments, resumed, in worker processes, and on Ray.

    python benchmarks/segments.py                       # demo clip, to and fro
    python benchmarks/segments.py --plan small.plan --crop 64x128 --frames 336 --ways plain segments

Every way runs in a process of its own, the ways taking turns; medians are reported. CPU seconds are those of the
process and its children, which a busy machine hardly changes; Ray's workers are no children, so only their wall-clock
time is known. The gate comes first: all ways must give the same pictures at the same times, kept losslessly.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path

import av

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

WAYS = ("plain", "segments", "resume", "workers", "ray")


def main() -> None:
    """Check that the ways agree, then measure them in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path)
    parser.add_argument("--frames", type=int, default=112)
    parser.add_argument("--crop", metavar="HEIGHTxWIDTH", help="of the demo clip's 192x320; all of it by default")
    parser.add_argument("--segment", type=int, default=48, help="frames of a segment; 48 is the least that a job takes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--files", nargs=2, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--lossless", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        print(json.dumps(_measure(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        clip = _to_and_fro(ROOT / "tests" / "data" / "city_blurry.mp4", Path(folder) / "clip.mp4", options)
        digests = {}
        for way in options.ways:
            _run(way, clip, Path(folder) / f"{way}.mkv", options, "--lossless")
            digests[way] = _digest(Path(folder) / f"{way}.mkv")
        if len(set(digests.values())) != 1:
            raise SystemExit(f"the ways disagree: {digests}")
        print(f"gate passed: {', '.join(options.ways)} give the same pictures at the same times", flush=True)
        results: dict[str, list[dict[str, float]]] = {way: [] for way in options.ways}
        for _ in range(options.rounds):
            for way, runs in results.items():
                runs.append(_run(way, clip, Path(folder) / f"{way}.mp4", options))
                print(f"{way}: {runs[-1]}", flush=True)
    medians = {way: {k: statistics.median(run[k] for run in runs) for k in runs[0]} for way, runs in results.items()}
    plain = medians[options.ways[0]]
    size = options.crop or "192x320"
    print(f"{options.frames} frames of {size}, segments of {options.segment}, median of {options.rounds} rounds")
    for way, values in medians.items():
        cpu = "" if way == "ray" else f", {values['cpu']:7.1f} s of CPU ({values['cpu'] / plain['cpu'] - 1:+.1%})"
        size = f"{values['size'] / 1e3:8.1f} kB ({values['size'] / plain['size'] - 1:+.2%})"
        print(f"{way:9} {values['wall']:7.1f} s{cpu}, {size}")


def _to_and_fro(source: Path, path: Path, options: argparse.Namespace) -> Path:
    height, width = map(int, options.crop.split("x")) if options.crop else (None, None)
    with av.open(str(source)) as container:
        frames = [frame.to_ndarray(format="rgb24")[:height, :width].copy() for frame in container.decode(video=0)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "12"})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        for picture in islice(cycle(frames + frames[-2:0:-1]), options.frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode(None))
    return path


def _run(way: str, clip: Path, out: Path, options: argparse.Namespace, *more: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--way", way, "--files", str(clip), str(out), *more]
    command += ["--segment", str(options.segment)] + (["--plan", str(options.plan)] if options.plan else [])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment, text=True).stdout)


def _measure(options: argparse.Namespace) -> dict[str, float]:
    from bsst.runtime.job import deblur
    from bsst.runtime.jobs import resumable
    from bsst.runtime.jobs.options import Execution, OutputFormat
    from bsst.runtime.jobs.report import Observer, Progress

    resumable.segment_length = lambda height, width: options.segment
    (clip, out), way = options.files, options.way
    cores = len(os.sched_getaffinity(0))
    execution = Execution(devices=("cpu",) * cores if way == "workers" else (), ray="auto" if way == "ray" else "")
    started = time.perf_counter()
    if way == "plain":
        _plain(clip, out, options.plan, lossless=options.lossless)
    else:

        def stop_half_way(progress: Progress) -> None:
            if progress.work > (progress.total or 0) / 2:
                raise KeyboardInterrupt

        def run(observer: Observer | None = None) -> None:
            form = OutputFormat(lossless=options.lossless)
            deblur(clip, out, options.plan, overwrite=True, output_format=form, execution=execution, observer=observer)

        if way == "resume":
            with suppress(KeyboardInterrupt):
                run(Observer(progress=stop_half_way))
        run()
    wall = time.perf_counter() - started
    cpu = sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, (0, resource.RUSAGE_CHILDREN)))
    return {"wall": wall, "cpu": cpu, "size": out.stat().st_size}


def _plain(clip: Path, out: Path, plan: Path | None, *, lossless: bool) -> None:
    """One pass over the video into one encoder; nothing is kept in between."""
    from bsst.runtime.frames.windows import RestoredWindow, SourceFrame
    from bsst.runtime.network.network import load_network
    from bsst.runtime.restore import restored_windows
    from bsst.runtime.video.reader import VideoReader
    from bsst.runtime.video.writer import CONTAINERS, VideoWriter

    with VideoReader(clip) as reader, load_network(plan) as network:
        container = CONTAINERS[out.suffix]
        with VideoWriter(out, container, reader.info, source=clip, lossless=lossless) as writer:
            sources = (SourceFrame(frame.rgb, time=(frame.pts, frame.duration)) for frame in reader)
            for result in restored_windows(sources, network):
                if isinstance(result, RestoredWindow):
                    for (pts, duration), pixels in zip(result.times, result.frames, strict=True):
                        writer.write(pixels, pts=pts, duration=duration)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            digest.update(f"{frame.pts * frame.time_base} ".encode() + frame.to_ndarray().tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    main()
