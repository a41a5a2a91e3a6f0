"""What must never happen: a wrong file under the final name, a leftover, a hang, or a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from bsst.errors import InputError, OutputError, UsageError
from bsst.runtime.job import deblur
from bsst.runtime.jobs.options import OutputFormat
from bsst.runtime.jobs.part import Part
from bsst.runtime.jobs.report import Observer, Progress
from bsst.runtime.restore import Tiling
from bsst.runtime.video import sizes
from bsst.runtime.video.writer import VideoWriter
from tests.media import Clip, Identity, decode


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return Clip(audio="aac").write(tmp_path / "clip")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Broken(Identity):
    """Restores every clip to garbage from the `first`-th clip on."""

    def __init__(self, make: Callable[[np.ndarray], np.ndarray], first: int = 0) -> None:
        super().__init__()
        self.make, self.first = make, first

    def restore(self, clip: np.ndarray, backward: np.ndarray, forward: np.ndarray) -> np.ndarray:
        restored = super().restore(clip, backward, forward)
        return self.make(restored) if self.clips > self.first else restored


def test_frames_that_are_not_finite_fall_back_to_the_source(clip: Path) -> None:
    def spoiled(restored: np.ndarray) -> np.ndarray:
        restored[2, 1, 5, 7] = np.nan
        return restored

    result = deblur(clip, plan=Broken(spoiled), output_format=OutputFormat(lossless=True))
    assert result.frames == 12
    assert 0 < result.repaired < 12
    numbers = result.warnings[-1].removeprefix(
        f"{result.repaired} of 12 frames could not be restored and are unchanged: "
    )
    assert len(numbers.split(", ")) == result.repaired  # one of each window
    for a, b in zip(decode(result.output).planes, decode(clip).planes, strict=True):
        np.testing.assert_array_equal(a[0], b[0])


def test_restored_frames_are_limited_to_the_rgb_cube(clip: Path) -> None:
    result = deblur(
        clip,
        plan=Broken(lambda restored: restored + 9),
        output_format=OutputFormat(lossless=True),
        tiling=Tiling(guard=False),
    )
    assert all((planes[0] == 235).all() and (planes[1] == 128).all() for planes in decode(result.output).planes)


def test_an_existing_output_is_refused_unless_told(clip: Path) -> None:
    out = clip.with_name("out.mp4")
    out.write_bytes(b"precious")
    restorer = Identity()
    with pytest.raises(OutputError, match="--overwrite"):
        deblur(clip, out, plan=restorer)
    assert out.read_bytes() == b"precious"
    assert restorer.clips == 0
    assert deblur(clip, out, plan=restorer, overwrite=True).frames == 12
    assert len(decode(out).seconds) == 12


def test_the_input_is_never_the_output(clip: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.mp4"
    link.symlink_to(clip)
    before = clip.read_bytes()
    for out in (clip, link):
        with pytest.raises(UsageError, match="choose another name"):
            deblur(clip, out, plan=Identity(), overwrite=True)
    assert clip.read_bytes() == before


@pytest.mark.parametrize(
    ("out", "error"),
    [("out.avi", UsageError), ("out", UsageError), ("nowhere/out.mp4", OutputError)],
)
def test_outputs_that_cannot_be_written_are_refused(clip: Path, out: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        deblur(clip, clip.with_name("x").parent / out, plan=Identity())
    assert names(clip.parent) == ["clip.mp4"]


@pytest.mark.parametrize("name", ["12:30.mp4", "http:a.mp4", "-i.mp4", "two\nlines.mp4", "50%d*.mp4"])
def test_names_that_ffmpeg_would_take_for_something_else_are_names(
    clip: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(clip.parent)
    clip.rename(name)
    result = deblur(name, "out" + name, plan=Identity())
    assert (result.output, result.frames) == (Path("out" + name), 12)
    assert names(clip.parent) == sorted([name, "out" + name])


def test_long_names_work_up_to_what_the_file_system_holds(clip: Path) -> None:
    longest = clip.with_name("x" * 251 + ".mp4")
    assert deblur(clip, longest, plan=Identity()).output == longest
    with pytest.raises(OutputError, match="got File name too long"):
        deblur(clip, clip.with_name("x" * 252 + ".mp4"), plan=Identity())


def test_a_read_only_folder_is_one_error(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(30, "Read-only file system")

    opened = av.open
    monkeypatch.setattr(Path, "unlink", fail)  # says so of files that do not exist, too
    monkeypatch.setattr(
        av, "open", lambda file, mode="r", **options: fail() if mode == "w" else opened(file, **options)
    )
    with pytest.raises(OutputError, match="expected to write"):
        deblur(clip, plan=Identity())


def test_overwriting_stops_at_folders(clip: Path) -> None:
    (clip.parent / "out.mp4").mkdir()
    with pytest.raises(OutputError, match="found a folder"):
        deblur(clip, clip.parent / "out.mp4", plan=Identity(), overwrite=True)


def test_a_pipe_is_no_video(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(InputError, match="found a pipe or device at"):
        deblur(tmp_path / "pipe.mp4", plan=Identity())


def truncated(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


LONG = tuple(range(0, 100 * 40, 40))


@pytest.mark.parametrize(
    ("recipe", "share"),
    [
        (Clip(), 0.9),
        (Clip(suffix=".mkv", times=LONG, time_base=Fraction(1, 1000)), 0.6),
        (Clip(suffix=".mkv", codec="ffv1", times=LONG, time_base=Fraction(1, 1000)), 0.8),
        (Clip(), 0.0),
        (Clip(), 0.01),
    ],
    ids=["mp4-without-index", "mkv", "ffv1", "empty", "header-only"],
)
def test_truncated_files_are_refused_before_any_work(tmp_path: Path, recipe: Clip, share: float) -> None:
    source = recipe.write(tmp_path / "clip")
    truncated(source, share)
    restorer = Identity()
    with pytest.raises(InputError) as caught:
        deblur(source, plan=restorer)
    assert "\n" not in str(caught.value)
    assert restorer.clips == 0
    assert names(tmp_path) == [source.name]


def test_a_truncated_file_with_its_index_in_front_is_refused(tmp_path: Path) -> None:
    source = Clip(times=LONG, time_base=Fraction(1, 1000)).write(tmp_path / "clip")
    front = tmp_path / "front.mp4"
    with av.open(str(source)) as old, av.open(str(front), "w", options={"movflags": "faststart"}) as new:
        stream = new.add_stream_from_template(old.streams.video[0], opaque=True)
        for packet in old.demux():
            if packet.size:
                packet.stream = stream
                new.mux(packet)
    truncated(front, 0.7)
    with pytest.raises(InputError):
        deblur(front, plan=Identity())


def test_files_without_video_are_refused(tmp_path: Path) -> None:
    text = tmp_path / "notes.mp4"
    text.write_text("not a video")
    sound = tmp_path / "sound.wav"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        stream.layout = "mono"
        container.mux([*stream.encode(frame), *stream.encode(None)])
    for path, message in ((text, "cannot open"), (sound, "found audio"), (tmp_path / "none.mp4", "found nothing")):
        with pytest.raises(InputError, match=message):
            deblur(path, tmp_path / "out.mp4", plan=Identity())
    with pytest.raises(InputError, match="expected pictures"):
        deblur(tmp_path, tmp_path / "out.mp4", plan=Identity())
    assert not (tmp_path / "out.mp4").exists()


def test_damaged_packets_end_in_a_result_or_one_error(tmp_path: Path) -> None:
    source = Clip(times=tuple(range(0, 40 * 512, 512)), options={"bf": "3"}).write(tmp_path / "clip")
    good = bytearray(source.read_bytes())
    media = good.index(b"mdat")
    outcomes = set()
    for seed in range(8):
        data = bytearray(good)
        generator = np.random.default_rng(seed)
        for at in generator.integers(media + 800, media + (good.index(b"moov") - media) * 3 // 4, 20 * seed):
            data[at] = generator.integers(256)
        bad = tmp_path / f"bad{seed}.mp4"
        bad.write_bytes(data)
        try:
            outcomes.add(f"{deblur(bad, plan=Identity()).frames} frames")
        except InputError as error:
            outcomes.add("refused" if "\n" not in str(error) else "long error")
    assert "40 frames" in outcomes
    assert "long error" not in outcomes
    assert not [name for name in names(tmp_path) if name.endswith(".tmp")]


def test_missing_timestamps_are_made_up_in_order(tmp_path: Path) -> None:
    source = tmp_path / "raw.h264"
    Clip(suffix=".h264", time_base=Fraction(1, 25), times=tuple(range(12)), options={"bf": "2"}).write(source)
    result = deblur(source, plan=Identity(), output_format=OutputFormat(lossless=True))
    assert result.output.name == "raw.deblurred.mkv"
    assert result.frames == 12
    assert [round(float(s) * 25) for s in decode(result.output).seconds] == list(range(12))
    assert any("12 frames had no usable timestamp" in warning for warning in result.warnings)


def test_repeated_timestamps_move_by_one_tick(tmp_path: Path) -> None:
    times = (0, 40, 40, 80, 120, 120)
    source = Clip(suffix=".mkv", codec="ffv1", times=times, time_base=Fraction(1, 1000)).write(tmp_path / "clip")
    result = deblur(source, plan=Identity())
    assert [int(s * 1000) for s in decode(result.output).seconds] == [0, 40, 41, 80, 120, 121]
    assert any("2 frames had no usable timestamp" in warning for warning in result.warnings)


@pytest.fixture
def resized(tmp_path: Path) -> Path:
    """Six frames of 64x96, then six of 96x64, each part with a key frame at its start only."""
    parts = [Clip(suffix=".ts", size=size, time_base=Fraction(1, 25), times=tuple(range(6))).write(tmp_path / name)
             for name, size in (("a", (64, 96)), ("b", (96, 64)))]  # fmt: skip
    (joined := tmp_path / "joined.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    return joined


def test_a_change_of_size_is_refused_with_its_time(resized: Path) -> None:
    with pytest.raises(InputError, match=r"64x96 like the first, got 96x64 \(height x width\) at 0\.24 s; .*--end"):
        deblur(resized, plan=Identity())
    assert "joined.deblurred.mkv" not in names(resized.parent)


def test_a_change_of_size_in_a_long_film_is_refused_before_a_frame_is_restored(
    resized: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizes, "EVERY", 4)
    with pytest.raises(InputError, match=r"got 96x64 \(height x width\) at 0\.24 s; .*scale=96:64"):
        deblur(resized, plan=Broken(lambda _: pytest.fail("a clip was restored")))
    restored = deblur(resized, plan=Identity(), part=Part.of(end="0.24"))
    assert restored.frames == 6


@pytest.mark.parametrize("count", [1, 2, 4, 5, 6])
def test_clips_around_the_window_length_keep_every_frame(tmp_path: Path, count: int) -> None:
    source = Clip(times=tuple(range(0, count * 512, 512))).write(tmp_path / "clip")
    result = deblur(source, plan=Identity(frames=5, window_overlap=2), output_format=OutputFormat(lossless=True))
    assert result.frames == count
    assert len(decode(result.output).seconds) == count


def test_a_full_disk_says_what_is_kept_and_how_to_go_on(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    genuine = VideoWriter.write_packet

    def fail(self: VideoWriter, packet: object) -> None:
        if self.path.exists() and packet.pts:  # type: ignore[attr-defined]
            raise OutputError("expected to write, got a full disk; free space")
        genuine(self, packet)  # type: ignore[arg-type]

    monkeypatch.setattr(VideoWriter, "write_packet", fail)
    with pytest.raises(OutputError, match=r"free space; 12 frames are kept in .*\.bsst-clip.*run the same command to"):
        deblur(clip, plan=Identity())
    assert len(names(clip.parent)) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_nothing_is_left_behind_when_the_network_fails(clip: Path, error: type[BaseException]) -> None:
    def fail(_: np.ndarray) -> np.ndarray:
        raise error

    with pytest.raises(BaseException) as caught:  # noqa: PT011
        deblur(clip, plan=Broken(fail, first=3))
    assert isinstance(caught.value.__cause__ or caught.value, error)
    assert names(clip.parent) == ["clip.mp4"]


def test_progress_reaches_the_total_and_names_fractions(clip: Path) -> None:
    states: list[Progress] = []
    deblur(clip, plan=Identity(), observer=Observer(progress=states.append))
    assert [state.work for state in states] == sorted(state.work for state in states)
    assert [states[-1].frames, states[-1].work, states[-1].total] == [12, 12, 12]
    assert any(state.work != int(state.work) for state in states)
    assert states[-1].eta_seconds == 0


CHILD = """
import resource, sys
from pathlib import Path
from bsst.runtime.job import deblur
from bsst.runtime.jobs.options import OutputFormat
from tests.media import Identity
if sys.argv[3] == "full":
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    deblur(Path(sys.argv[1]), Path(sys.argv[2]), plan=Identity(), output_format=OutputFormat(lossless=True))
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_full_disk_is_one_error_and_leaves_nothing(tmp_path: Path, suffix: str) -> None:
    source = Clip(size=(192, 256), suffix=suffix).write(tmp_path / "clip")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(source), str(tmp_path / f"out{suffix}"), "full"],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("OutputError expected to write")
    assert names(tmp_path) == [source.name]


STREAM = """
import resource, sys
import numpy as np
from bsst.runtime.restore import deblur_frames
from tests.media import Identity
count, frame = 0, np.random.default_rng(0).random((3, 180, 240), dtype=np.float32)
def frames(total):
    for index in range(total):
        yield np.roll(frame, index, axis=2)
peaks = []
for total in (60, 900):
    count += sum(1 for _ in deblur_frames(frames(total), Identity(frames=8, tile=(96, 128), flow_size=(96, 128))))
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(count, *peaks)
"""


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", STREAM], cwd=Path(__file__).parents[2],
                          capture_output=True, text=True, timeout=120, check=True)  # fmt: skip
    count, short, long = map(int, done.stdout.split())
    assert count == 960
    assert long - short < 8 * 1024  # KiB; 840 more frames are 435 MB
