"""A cluster of two nodes on this machine that loses one in the middle of a job writes the file of one process."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bsst.errors import BsstError, PlanError, UsageError
from bsst.runtime import job
from bsst.runtime.job import deblur
from bsst.runtime.jobs import cluster_ray
from bsst.runtime.jobs.cluster_ray import restore_on_cluster
from bsst.runtime.jobs.options import Execution
from bsst.runtime.jobs.report import Observer
from bsst.runtime.jobs.run import Task
from tests.media import Clip
from tests.runtime.jobs.test_resume import digests, work_folders

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray, which is not here"),
    pytest.mark.filterwarnings("default"),  # Ray's own
    pytest.mark.timeout(300),
]
ROOT = Path(__file__).parents[3]
QUIET = {
    "RAY_memory_monitor_refresh_ms": "0",  # it would end workers because of what else runs on the machine
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "PYTHONPATH": os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]),
    "OMP_NUM_THREADS": "1",
}
ON_CLUSTER = Execution(threads=1, in_flight=1, ray="auto")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """One cluster for all tests, a head without room for workers."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUIET.items():
            patch.setenv(name, value)
        import ray
        from ray.cluster_utils import Cluster

        store = 80 << 20  # nothing goes through it
        try:
            cluster = Cluster(
                initialize_head=True,
                head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": store},
            )
        except Exception as error:
            pytest.skip(f"Ray cannot start a node on this machine: {error}")
        try:
            cluster.add_node(num_cpus=1, object_store_memory=store)
            ray.init(address=cluster.address, log_to_driver=False)
            cluster.room = store
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(job, "segment_length", lambda height, width: 5)
    return Clip(times=tuple(range(0, 30 * 512, 512)), size=(48, 64)).write(tmp_path / "clip")


@pytest.mark.slow
def test_a_cluster_that_loses_a_node_writes_the_file_of_one_process(
    cluster: Any, clip: Path, cpu_plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = deblur(clip, clip.with_name("alone.mp4"), cpu_plan, execution=Execution(threads=1, in_flight=1))
    doomed = cluster.add_node(num_cpus=1, object_store_memory=cluster.room)
    seen = list[int]()

    def lose(progress: object) -> None:
        seen.append(1)
        if len(seen) == 2:
            cluster.remove_node(doomed, allow_graceful=False)

    result = deblur(clip, clip.with_name("far.mp4"), cpu_plan, execution=ON_CLUSTER, observer=Observer(progress=lose))
    assert len(seen) > 4
    assert digests(result.output) == digests(alone.output)


@pytest.mark.slow
def test_a_killed_actor_costs_its_segment_and_a_new_driver_goes_on(
    cluster: Any, clip: Path, cpu_plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    genuine, crews = cluster_ray._Crew, list[Any]()
    monkeypatch.setattr(cluster_ray, "_Crew", lambda *a, **o: crews.append(genuine(*a, **o)) or crews[-1])
    seen = list[int]()

    def kill(progress: object) -> None:
        seen.append(1)
        if len(seen) == 1:
            ray.kill(next(iter(crews[0]._actors)))
        if len(seen) == 4:
            raise KeyboardInterrupt  # as close to a killed driver as one process comes

    with pytest.raises(KeyboardInterrupt, match="run the same command to go on"):
        deblur(clip, plan=cpu_plan, execution=ON_CLUSTER, observer=Observer(progress=kill))
    assert work_folders(clip.parent)
    lines = list[str]()
    result = deblur(clip, plan=cpu_plan, execution=ON_CLUSTER, observer=Observer(info=lines.append))
    assert any("goes on with an unfinished job" in line for line in lines)
    assert result.frames == 30


@pytest.mark.slow
def test_a_worker_with_another_plan_is_refused(cluster: Any, cpu_plan: Path, tmp_path: Path) -> None:
    task = Task(video=tmp_path, folder=tmp_path, run=(), tile=(64, 128), tiling=None, target=None, hwaccel="none")  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="like the rest of the job"):
        list(restore_on_cluster([task], cpu_plan, "0" * 64, address="auto", on_gpu=False, threads=1, in_flight=1))


@pytest.mark.slow
def test_a_cluster_without_a_gpu_is_refused_for_a_plan_that_needs_one(cluster: Any, tmp_path: Path) -> None:
    task = Task(video=tmp_path, folder=tmp_path, run=(), tile=(64, 128), tiling=None, target=None, hwaccel="none")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="expected a cluster with a GPU for this plan, found none"):
        list(restore_on_cluster([task], None, "", address="auto", on_gpu=True, threads=1, in_flight=1))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "ray://127.0.0.1:1"])
def test_a_cluster_out_of_reach_is_one_error(
    address: str, clip: Path, cpu_plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(BsstError, match=f"expected a Ray cluster at {address}, cannot reach it"):
        deblur(clip, plan=cpu_plan, execution=Execution(threads=1, in_flight=1, ray=address))
    assert not work_folders(clip.parent)
