from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper, parser

from bsst.calibration.calibrate import calibrate, sample_size
from bsst.calibration.observe import BINS, ObservingSession, RangeCollector
from bsst.calibration.precision.int8_placement import INT8_STAGES, plain_graph
from bsst.calibration.ranges import ClipRecord, Method, Ranges, read_ranges, require_plan, stages_key, write_ranges
from bsst.calibration.samples import clip_record, read_samples
from bsst.cli import main
from bsst.errors import InputError, ModelError, UsageError
from bsst.plan.archive import open_plan, write_plan
from tests.media import Clip

DATA = Path(__file__).parents[1] / "data"
CITY, SHARP = DATA / "city_blurry.mp4", DATA / "city_sharp.mp4"
RNG = np.random.default_rng(11)

STAGE = parser.parse_model("""<ir_version: 9, opset_import: ["" : 19]>
    stage (float[1,2,3] x, float[1,2,3] z) => (float[1,2,3] y, float[1,2,3] w) {
      a = Add (x, z)
      b = Mul (a, a)
      y = Neg (b)
      w = Relu (y)
    }""")


def test_pictures_are_samples_and_one_that_changed_is_refused(tmp_path: Path) -> None:
    source = next((DATA / "gopro" / "test" / "blur").iterdir())
    folder = Path(shutil.copytree(source, tmp_path / "shots"))
    record = clip_record(folder, None)
    (sample,) = read_samples([record], frames=2, size=(32, 48), windows=1)
    assert sample.blurry.shape == (2, 3, 32, 48)
    with sorted(folder.iterdir())[-1].open("ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match="as it was calibrated on"):
        list(read_samples([record], frames=2, size=(32, 48), windows=1))


def test_ranges_are_the_extremes_over_all_calls_of_inputs_inner_values_and_outputs() -> None:
    collector = RangeCollector("stage", "minmax", 100)
    session = ObservingSession(STAGE, {"x", "b", "y"}, collector, threads=1)
    outputs = {name: np.full((1, 2, 3), np.nan, np.float32) for name in ("w", "y")}
    for shift in (0.0, -4.0, 2.0):
        x = np.arange(6, dtype=np.float32).reshape(1, 2, 3) + np.float32(shift)
        session.run({"x": x, "z": np.ones_like(x)}, outputs)
        np.testing.assert_array_equal(outputs["y"], -((x + 1) ** 2))
        np.testing.assert_array_equal(outputs["w"], 0)
    assert collector.result() == {"x": (-4.0, 7.0), "b": (0.0, 64.0), "y": (-64.0, 0.0)}


def test_a_percentile_leaves_out_the_share_asked_for_and_entropy_the_tail() -> None:
    bulk = RNG.normal(0, 1, 100_000).astype(np.float32)
    bulk[:20] = 60
    limits = {}
    for method, percentile in (("minmax", 100.0), ("percentile", 99.9), ("entropy", 100.0)):
        collector = RangeCollector("stage", method, percentile)
        for part in np.split(bulk, 4):
            collector.add("x", part)
        (low, high), *rest = collector.result().values()
        assert not rest
        limits[method] = max(-low, high)
    assert limits["minmax"] == 60
    exact = np.quantile(np.abs(bulk), 0.999)
    assert abs(limits["percentile"] - exact) < 2 * 60 / BINS["percentile"]
    assert 2 < limits["entropy"] < 30


def test_the_default_of_the_library_would_make_entropy_another_name_for_the_extremes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Why `BINS` is not left to ONNX Runtime; when this fails, it may be."""
    monkeypatch.setitem(BINS, "entropy", 128)
    values = RNG.normal(0, 1, 10_000).astype(np.float32)
    values[0] = 60
    collector = RangeCollector("stage", "entropy", 100)
    collector.add("x", values)
    assert collector.result()["x"][1] == 60


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_activation_that_is_not_finite_is_refused(method: Method, bad: float) -> None:
    collector = RangeCollector("encode", method, 99)
    with pytest.raises(ModelError, match="stage encode: expected finite values of x"):
        collector.add("x", np.array([0, bad, 1], np.float32))


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_an_activation_that_is_always_zero_is_refused(method: Method) -> None:
    collector = RangeCollector("encode", method, 99)
    collector.add("x", np.zeros((2, 600), np.float32))
    with pytest.raises(ModelError, match="stage encode: expected values other than 0, got none in x"):
        collector.result()


@pytest.fixture(scope="module")
def ranges(cpu_plan: Path) -> Ranges:
    return calibrate(cpu_plan, [clip_record(CITY, SHARP)], method="minmax", windows=2)


def test_stages_see_what_the_wiring_gives_them(cpu_plan: Path, ranges: Ranges) -> None:
    plan = open_plan(cpu_plan)
    assert set(ranges.tensors) == set(INT8_STAGES)
    assert ranges.tensors["fuse"]["conv2d"] == ranges.tensors["attend"]["reconstruction"]  # its result, reshaped
    encode = plain_graph(onnx.load_from_string(plan.member("encode")))
    subtract = encode.graph.node[0]
    assert subtract.op_type == "Sub"
    centre = next(numpy_helper.to_array(t) for t in encode.graph.initializer if t.name == subtract.input[1])
    samples = list(read_samples(ranges.clips, frames=4, size=sample_size(plan.manifest), windows=2))
    height, width = plan.manifest.tile
    frames = np.concatenate([sample.blurry[:, :, :height, :width] for sample in samples]) - centre
    first = next(node for node in encode.graph.node if node.op_type == "Conv")  # on the frames, unshuffled
    assert ranges.tensors["encode"][first.input[0]] == (frames.min(), frames.max())


def test_windows_are_spread_over_the_clip_and_pair_with_the_ground_truth() -> None:
    record = clip_record(CITY, SHARP)
    samples = list(read_samples([record], frames=5, size=(96, 130), windows=3))
    assert [sample.name.split()[-1] for sample in samples] == ["0", "12", "23"]  # of 28 frames
    for sample in samples:
        assert sample.sharp is not None
        assert sample.blurry.shape == sample.sharp.shape == (5, 3, 96, 130)
        assert 20 < 10 * np.log10(1 / np.mean((sample.blurry - sample.sharp) ** 2)) < 45


def test_small_pictures_and_short_clips_are_mirrored(tmp_path: Path) -> None:
    clip = Clip(size=(50, 70), times=(0, 512, 1024)).write(tmp_path / "short")
    (sample,) = read_samples([clip_record(clip, None)], frames=7, size=(64, 64), windows=2)
    assert sample.sharp is None
    assert sample.blurry.shape == (7, 3, 64, 64)
    np.testing.assert_array_equal(sample.blurry[3], sample.blurry[2])
    np.testing.assert_array_equal(sample.blurry[:, :, 50:], sample.blurry[:, :, 36:50][:, :, ::-1])


def test_no_clips_are_refused(cpu_plan: Path) -> None:
    with pytest.raises(UsageError, match="one or more clips, got none"):
        calibrate(cpu_plan, [])


def test_a_clip_with_nan_is_refused(monkeypatch: pytest.MonkeyPatch, cpu_plan: Path) -> None:
    class Broken:
        info = SimpleNamespace(frames=4)

        def __init__(self, path: Path) -> None: ...

        def __enter__(self) -> Broken:
            return self

        def __exit__(self, *error: object) -> None: ...

        def __iter__(self) -> Iterator[Any]:
            for index in range(4):
                yield SimpleNamespace(rgb=np.full((3, 128, 128), np.nan if index == 2 else 0.5, np.float32))

    monkeypatch.setattr("bsst.runtime.video.sources.open_reader", Broken)
    with pytest.raises(InputError, match=r"expected finite pixels in .*city_blurry\.mp4, got NaN or infinity"):
        calibrate(cpu_plan, [clip_record(CITY, None)])


def test_a_clip_that_changed_or_disagrees_with_its_truth_is_refused(tmp_path: Path) -> None:
    record = clip_record(CITY, SHARP)
    changed = dataclasses.replace(record, sha256="0" * 64)
    with pytest.raises(InputError, match="as it was calibrated on, got another file"):
        list(read_samples([changed], frames=4, size=(64, 64), windows=1))
    short = Clip(times=tuple(range(0, 20 * 512, 512))).write(tmp_path / "short")
    with pytest.raises(InputError, match="as many frames in .*short.mp4"):
        list(read_samples([clip_record(CITY, short)], frames=4, size=(64, 64), windows=2))
    with pytest.raises(InputError, match="expected a video file at .*gone.mp4"):
        clip_record(tmp_path / "gone.mp4", None)


def test_ranges_survive_the_file_and_belong_to_one_plan(cpu_plan: Path, ranges: Ranges, tmp_path: Path) -> None:
    path = tmp_path / "ranges.json"
    write_ranges(path, ranges)
    assert read_ranges(path) == ranges
    plan = open_plan(cpu_plan)
    require_plan(ranges, plan.manifest)
    relabelled = dataclasses.replace(plan.manifest, label="the same stages")
    require_plan(ranges, relabelled)
    members: dict[str, Path | bytes] = {s.member: plan.member(s.name) for s in plan.manifest.stages}
    model = onnx.load_from_string(plan.member("fuse"))
    model.doc_string = "one byte more"
    members["fuse.onnx"] = model.SerializeToString()
    other = write_plan(tmp_path / "other.plan", plan.manifest, members)
    assert stages_key(other) != ranges.stages_sha256
    with pytest.raises(UsageError, match="expected ranges of this plan .* got ranges of another one"):
        require_plan(ranges, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("method"), "missing: method"),
        (lambda data: data.update(format="bsst-ranges-9"), "no format bsst-ranges-1"),
        (lambda data: data["tensors"]["fuse"].update(x=["a", 1]), r"fuse\.x\[0\]: expected a finite number"),
        (lambda data: data["tensors"]["fuse"].update(x=[2, 1]), "range around or beside 0 for x of stage fuse"),
        (lambda data: data["tensors"]["fuse"].update(x=[0, 0]), "range around or beside 0 for x of stage fuse"),
    ],
)
def test_a_damaged_file_of_ranges_is_refused(ranges: Ranges, tmp_path: Path, change: Any, message: str) -> None:
    data = json.loads(json.dumps(dataclasses.asdict(ranges)))
    change(data)
    path = tmp_path / "ranges.json"
    path.write_text(json.dumps(data))
    with pytest.raises(ModelError, match=message):
        read_ranges(path)


@pytest.mark.parametrize("text", [b"", b"{", b"[1]", b"\xff", b"null"])
def test_what_is_no_file_of_ranges_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "ranges.json"
    path.write_bytes(text)
    with pytest.raises(ModelError, match="expected ranges written by bsst calibrate"):
        read_ranges(path)


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["calibrate", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def test_the_command_shows_progress_and_writes_the_file_whole(cpu_plan: Path, tmp_path: Path) -> None:
    output = tmp_path / "ranges.json"
    status, out, err = invoke(cpu_plan, CITY, "--truth", SHARP, "--windows", 1, "-o", output)
    assert (status, err.splitlines()[0]) == (0, "window 1 of at most 1: city_blurry.mp4 from frame 0")
    written = read_ranges(output)
    assert out == f"{output}: {sum(map(len, written.tensors.values()))} ranges of 5 stages\n"
    assert written.method == "percentile"
    assert written.clips == (
        ClipRecord(
            path=str(CITY),
            sha256=clip_record(CITY, None).sha256,
            truth_path=str(SHARP),
            truth_sha256=clip_record(SHARP, None).sha256,
        ),
    )
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ((CITY, CITY, "--truth", SHARP), 2, "--truth once per clip, got 1 for 2 clips"),
        ((CITY, "--windows", 0), 2, "1 or more windows"),
        ((CITY, "--method", "percentile", "--percentile", 101), 2, "a percentile above 50 up to 100, got 2 and 101"),
        ((), 2, "missing argument 'CLIP...'"),
        ((Path("missing.mp4"),), 3, "expected a video file at missing.mp4"),
        ((Path(__file__),), 3, "test_calibrate.py"),
    ],
)
def test_requests_that_cannot_be_met_end_with_their_status(
    cpu_plan: Path, tmp_path: Path, arguments: tuple[Any, ...], status: int, message: str
) -> None:
    output = tmp_path / "ranges.json"
    got, out, err = invoke(cpu_plan, *arguments, "-o", output)
    assert (got, out) == (status, "")
    assert message in err
    assert not output.exists()


def test_a_file_that_is_no_plan_and_a_place_that_cannot_be_written_end_with_their_status(
    cpu_plan: Path, tmp_path: Path
) -> None:
    assert invoke(CITY, CITY, "-o", tmp_path / "ranges.json")[0] == 5
    nowhere = tmp_path / "missing" / "ranges.json"
    assert invoke(cpu_plan, CITY, "--windows", 1, "--method", "minmax", "-o", nowhere)[0] == 4
