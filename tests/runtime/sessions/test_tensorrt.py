"""TensorRT sessions on the fakes: what they ask of the library, what they refuse, when they capture graphs."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import parser

from bsst.errors import MissingDependencyError, ModelError, OutOfMemoryError, PlanError
from bsst.plan.manifest import StageSpec, TensorSpec
from bsst.runtime.devices.cuda import CudaDevice
from bsst.runtime.sessions import tensorrt as session_trt
from bsst.runtime.sessions.kernel_cache import RuntimeCache, runtime_cache
from bsst.runtime.sessions.lane import Lane
from bsst.runtime.sessions.tensorrt import TrtLibrary, TrtSession
from tests.runtime.simulated_gpu import VERSIONS, simulated_gpu, tensor

SHAPE = (2, 3, 8, 16)
MODEL = parser.parse_model("""
    <ir_version: 9, opset_import: ["" : 19]>
    stage (float[2,3,8,16] x, float[2,3,8,16] y) => (float[2,3,8,16] z) { t = Mul (x, y) z = Add (t, x) }
    """).SerializeToString()
SPEC = StageSpec(
    name="mix",
    member="mix.engine",
    inputs=tuple(TensorSpec(name=name, dtype="float32", shape=SHAPE) for name in "xy"),
    outputs=(TensorSpec(name="z", dtype="float32", shape=SHAPE),),
    precision={},
    build={},
)


@pytest.fixture(params=["lazy", "eager"])
def gpu(request: pytest.FixtureRequest) -> Iterator[Any]:
    with simulated_gpu(mode=request.param, total=1 << 20) as gpu:
        yield gpu


class Bench:
    """A device, a stream and one session of the stage `mix`."""

    def __init__(self, *, target: Any = "tensorrt", graphs: bool = True, cache: Any = None, **facts: Any) -> None:
        self.device = CudaDevice()
        self.library = TrtLibrary(target, self.device)
        self.lane = Lane(self.device)
        self.session = self.load(graphs=graphs, cache=cache, **facts)
        self.stream = self.device.stream("bench")
        self.places = [{name: tensor(self.device, np.zeros(SHAPE, np.float32)) for name in "xyz"} for _ in range(4)]

    def load(self, *, graphs: bool = True, cache: Any = None, spec: StageSpec = SPEC, **facts: Any) -> TrtSession:
        return TrtSession(spec, self.engine(**facts), library=self.library, lane=self.lane, graphs=graphs, cache=cache)

    def engine(self, **facts: Any) -> bytes:
        return bytes(importlib.import_module("tensorrt").serialize(MODEL, **facts))

    def run(self, seed: int, place: int = 0, *, stream: Any = None, session: Any = None) -> None:
        """Upload, run, download, and compare with numpy."""
        stream, tensors = stream or self.stream, self.places[place]
        x, y, z = (self.device.host_array(SHAPE, "float32") for _ in range(3))
        x[...], y[...] = np.random.default_rng(seed).normal(size=(2, *SHAPE))
        stream.upload(x, tensors["x"])
        stream.upload(y, tensors["y"])
        (session or self.session).enqueue({n: tensors[n] for n in "xy"}, {"z": tensors["z"]}, stream)
        stream.download(tensors["z"], z)
        stream.synchronize()
        np.testing.assert_allclose(z, x * y + x, rtol=1e-6)

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *error: object) -> None:
        self.session.close()
        self.device.close()


class TestGraphs:
    def test_a_set_of_addresses_is_captured_when_it_is_met_again(self, gpu: Any) -> None:
        with Bench() as bench:
            for seed, place in enumerate((0, 1, 0, 1, 0, 1, 1)):
                bench.run(seed, place)
            assert bench.session.graph_use() == "2 graphs, launched 3 times"

    def test_addresses_that_never_repeat_are_never_captured(self, gpu: Any) -> None:
        with Bench() as bench:
            for place in range(4):
                bench.run(place, place)
            assert bench.session.graph_use() == "0 graphs, launched 0 times"
            assert "cuStreamBeginCapture" not in gpu.calls

    def test_only_the_latest_sets_are_kept_and_a_longer_cycle_does_not_thrash(
        self, gpu: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(session_trt, "_GRAPHS", 2)
        with Bench() as bench:
            for seed in range(9):
                bench.run(seed, seed % 3)
            assert "cuStreamBeginCapture" not in gpu.calls
            for seed, place in enumerate((0, 0, 0, 1, 1, 2, 2, 0)):
                bench.run(seed, place)
            assert len(gpu.executables) <= 2

    def test_an_engine_that_waits_runs_without_and_says_why(self, gpu: Any, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level("INFO", "bsst.runtime")
        with Bench(synchronises=True) as bench:
            for seed in range(4):
                bench.run(seed)
            assert "not permitted when stream is capturing" in bench.session.graph_use()
            assert gpu.calls.count("cuStreamBeginCapture") == 1
        assert "stage mix runs without CUDA graphs" in caplog.text

    def test_they_can_be_switched_off(self, gpu: Any) -> None:
        with Bench(graphs=False) as bench:
            for seed in range(3):
                bench.run(seed)
            assert bench.session.graph_use() == "switched off"

    @pytest.mark.parametrize(
        ("user_allocation", "use"), [(True, "1 graphs, launched 1"), (False, "no graphs: the eng")]
    )
    def test_rtx_is_asked_whether_it_can(self, gpu: Any, user_allocation: bool, use: str) -> None:
        with Bench(
            target="tensorrt-rtx",
            library="tensorrt-rtx",
            version=VERSIONS["tensorrt-rtx"],
            user_allocation=user_allocation,
        ) as bench:
            for seed in range(3):
                bench.run(seed)
            assert bench.session.graph_use().startswith(use)


class TestLane:
    def test_engines_share_the_largest_scratch(self, gpu: Any) -> None:
        with Bench(scratch=700) as bench:
            other = bench.load(scratch=3000)
            bench.run(0)
            bench.run(1, session=other)
            assert bench.lane.scratch().nbytes == 3000
            assert sum(array.nbytes for array in gpu.memory.values()) == 3000 + 12 * 4 * np.prod(SHAPE)
            other.close()

    def test_a_change_of_stream_is_put_in_order(self, gpu: Any) -> None:
        with Bench() as bench:
            other = bench.device.stream("other")
            z = bench.device.host_array(SHAPE, "float32")
            z[...] = 0
            for stream, place in ((bench.stream, 0), (other, 1), (bench.stream, 2), (other, 3)):
                for name in "xy":
                    stream.upload(z, bench.places[place][name])
                tensors = bench.places[place]
                bench.session.enqueue({n: tensors[n] for n in "xy"}, {"z": tensors["z"]}, stream)
            other.synchronize()

    def test_without_the_lane_that_is_a_race(self, gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            Lane, "submit", lambda self, stream, name, work, *, reads, writes: stream.submit(
                name, work, reads=reads, writes=writes
            )
        )  # fmt: skip
        with pytest.raises(AssertionError, match="a race"):
            self.test_a_change_of_stream_is_put_in_order(gpu)


class TestRefusals:
    @pytest.mark.parametrize(
        ("facts", "message"),
        [
            ({"version": "10.3.0"}, "stage mix: expected an engine for tensorrt 11.4.0.106 on Simulated GPU .*10.3.0"),
            ({"capability": "8.6"}, "incompatible device; make the plan again on this machine"),
            ({"vectorised": ["z"]}, "expected z output float32 .* linear on the GPU, got z output .* another layout"),
            ({"host": ["x"]}, "expected x input .* got x input float32 .* on the host"),
        ],
    )
    def test_engines_for_something_else(self, gpu: Any, facts: dict[str, Any], message: str) -> None:
        with Bench() as bench, pytest.raises(PlanError, match=message):
            bench.load(**facts)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"dtype": "float16"}, r"expected z output float16 .* got z output float32"),
            ({"shape": (2, 3, 8, 17)}, r"expected z output float32 \(2, 3, 8, 17\)"),
            ({"name": "w"}, "expected w output .*, z absent, got w absent, z output"),
        ],
    )
    def test_engines_that_are_not_what_the_manifest_says(self, gpu: Any, changes: Any, message: str) -> None:
        spec = dataclasses.replace(SPEC, outputs=(dataclasses.replace(SPEC.outputs[0], **changes),))
        with Bench() as bench, pytest.raises(PlanError, match=message):
            bench.load(spec=spec)

    def test_bytes_that_are_no_engine(self, gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        with Bench() as bench:
            monkeypatch.setattr(bench, "engine", lambda **facts: b"not an engine")
            with pytest.raises(PlanError, match="magicTagRead"):
                bench.load()

    def test_rtx_reads_the_header_first(self, gpu: Any) -> None:
        with (
            Bench(target="tensorrt-rtx", library="tensorrt-rtx", version=VERSIONS["tensorrt-rtx"]) as bench,
            pytest.raises(PlanError, match="got INVALID, 1; make the plan again"),
        ):
            bench.load(library="tensorrt-rtx", version="1.6.0")

    def test_weights_that_do_not_fit(self, gpu: Any) -> None:
        with Bench() as bench:
            bench.device.allocate(gpu.free_bytes() - 64)
            with pytest.raises(OutOfMemoryError, match="got 64 bytes free of 1048576, .*OutOfMemory"):
                bench.load()

    def test_tensors_of_another_shape(self, gpu: Any) -> None:
        with Bench() as bench:
            tensors = bench.places[0]
            with pytest.raises(ModelError, match=r"expected z float32 \(2, 3, 8, 16\), got z float32 \(1, 3, 8, 16\)"):
                bench.session.enqueue({n: tensors[n] for n in "xy"}, {"z": tensors["z"].frame(0)}, bench.stream)
            with pytest.raises(ModelError, match=r"expected y float32 .*, got y absent"):
                bench.session.enqueue({"x": tensors["x"]}, {"z": tensors["z"]}, bench.stream)

    def test_addresses_that_tensorrt_does_not_take(self, gpu: Any) -> None:
        with Bench() as bench:
            tensors = bench.places[0]
            large = dataclasses.replace(tensors["z"], buffer=bench.device.allocate(1 << 14), offset=64)
            with pytest.raises(ModelError, match="expected z at a multiple of 256 bytes, got 0x7f"):
                bench.session.enqueue({n: tensors[n] for n in "xy"}, {"z": large}, bench.stream)

    def test_memory_that_was_freed(self, gpu: Any) -> None:
        with Bench() as bench:
            bench.run(0)
            with bench.device.current():
                bench.device.api.free(bench.places[0]["z"].address)
            bench.device._buffers.remove(bench.places[0]["z"].buffer)
            tensors = bench.places[0]
            with pytest.raises(AssertionError, match="are freed memory"):
                bench.session.enqueue({n: tensors[n] for n in "xy"}, {"z": tensors["z"]}, bench.stream)

    def test_a_library_that_is_not_installed(self, gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(__import__("sys").modules, "tensorrt", None)
        with CudaDevice() as device, pytest.raises(MissingDependencyError, match=r"pip install 'bsst\[tensorrt\]'"):
            TrtLibrary("tensorrt", device)


class TestCompiledKernels:
    FACTS = {"target": "tensorrt-rtx", "library": "tensorrt-rtx", "version": VERSIONS["tensorrt-rtx"]}

    def compiled(self, cache: RuntimeCache | None) -> int:
        """Kernels compiled while loading and running one engine."""
        engines = importlib.import_module("tensorrt_rtx").ICudaEngine
        before = engines.compiled
        with Bench(cache=cache, **self.FACTS) as bench:
            bench.run(0)
        return int(engines.compiled - before)

    def test_they_are_kept_for_the_next_run(self, gpu: Any, tmp_path: Path) -> None:
        cache = RuntimeCache(tmp_path / "new" / "mix.kernels")
        assert [self.compiled(cache) for _ in range(3)] == [1, 0, 0]
        assert self.compiled(None) == 1

    @pytest.mark.parametrize("damage", [b"", b"another driver", b"\0" * 99])
    def test_what_the_library_refuses_is_compiled_anew(self, gpu: Any, tmp_path: Path, damage: bytes) -> None:
        cache = RuntimeCache(tmp_path / "mix.kernels")
        cache.path.write_bytes(damage)
        assert [self.compiled(cache) for _ in range(2)] == [1, 0]

    def test_a_folder_that_cannot_be_written_costs_only_time(
        self, gpu: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").write_text("in the way")
        assert self.compiled(RuntimeCache(tmp_path / "file" / "mix.kernels")) == 1
        assert "compiled kernels are not" in caplog.text

    def test_a_gpu_that_broke_down_keeps_nothing_and_closes(self, gpu: Any, tmp_path: Path) -> None:
        cache = RuntimeCache(tmp_path / "mix.kernels")
        with Bench(cache=cache, crashes=1, **self.FACTS) as bench:
            bench.run(0)
            with pytest.raises(ModelError, match="illegal memory access"):
                bench.run(1)
        assert not cache.path.exists()

    def test_engine_library_and_gpu_have_a_file_each(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("BSST_CACHE_DIR", str(tmp_path))
        variants = [("a", "rtx 1.7", "Ada"), ("b", "rtx 1.7", "Ada"), ("a", "rtx 1.8", "Ada"), ("a", "rtx 1.7", "Orin")]
        assert len({runtime_cache(e, library=v, gpu=g).path for e, v, g in variants}) == len(variants)


def test_a_context_cannot_be_entered_by_two_threads_in_the_fake(gpu: Any) -> None:
    with Bench() as bench:
        context = bench.session._context
        assert context._busy.acquire()
        with pytest.raises(AssertionError, match="in two threads at once"):
            context.execute_async_v3(bench.stream.handle)
        context._busy.release()


def test_the_fake_refuses_what_a_session_never_does(gpu: Any) -> None:
    with Bench() as bench, bench.device.current():
        strategy = bench.library.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = bench.session._engine.create_execution_context(strategy)
        assert not context.set_tensor_address("nothing", 256)
        assert not context.set_input_shape("x", (1, 3, 8, 16))
        assert not context.execute_async_v3(bench.stream.handle), "no address is set"
        for name, place in bench.places[0].items():
            assert context.set_tensor_address(name, place.address)
        assert not context.execute_async_v3(bench.stream.handle), "no scratch is set"
        context.set_device_memory(bench.lane.scratch().address, bench.lane.scratch().nbytes)
        assert not context.execute_async_v3(0x1234), "no such stream"
        with pytest.raises(AssertionError, match="not a multiple of 256"):
            context.set_tensor_address("x", 0x7F00_0000_0010)
        assert context.execute_async_v3(bench.stream.handle)
        del context
