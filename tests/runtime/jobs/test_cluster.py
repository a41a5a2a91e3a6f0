"""A cluster of two nodes on this machine that loses one in the middle of a job writes the file of one process.

Ray gives up the loopback address for the machine's own, which others may reach, or nobody, as in a sandbox. So one test
runs the others in a network namespace of its own, where an address of the loopback device passes for the machine's.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bsst.errors import BsstError, PlanError, UsageError
from bsst.runtime.job import deblur
from bsst.runtime.jobs import cluster_ray, resumable
from bsst.runtime.jobs.cluster_ray import restore_on_cluster
from bsst.runtime.jobs.options import Execution
from bsst.runtime.jobs.report import Observer
from bsst.runtime.jobs.run import Task
from tests.media import Clip
from tests.runtime.jobs.test_resume import digests, work_folders

INSIDE = "BSST_TEST_IN_OWN_NETWORK"
NETWORK = (
    "ip link set lo up && ip addr add 10.9.8.7/32 dev lo && ip route add default dev lo src 10.9.8.7 && "
    f'exec env {INSIDE}=1 "$@"'
)
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray, which is not here"),
    pytest.mark.filterwarnings("default"),  # Ray's own
    pytest.mark.timeout(900),
]
inside = pytest.mark.skipif(INSIDE not in os.environ, reason="run by the test of a network of its own")
ROOT = Path(__file__).parents[3]
QUIET = {
    "RAY_memory_monitor_refresh_ms": "0",  # it would end workers because of what else runs on the machine
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_enable_metrics_collection": "0",
    "RAY_raylet_start_wait_time_s": "200",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "PYTHONPATH": os.pathsep.join([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]),
    "OMP_NUM_THREADS": "1",
}
ON_CLUSTER = Execution(threads=1, in_flight=1, ray="auto")
PORTS = ("metrics_agent_port", "metrics_export_port", "runtime_env_agent_port", "dashboard_agent_listen_port")


def node(**options: Any) -> dict[str, Any]:
    """Options of a node that need not wait for its agents, which takes longer than Ray allows on a busy machine."""
    for name in PORTS:
        with socket.socket() as free:
            free.bind(("", 0))
            options[name] = free.getsockname()[1]
    return {"object_store_memory": 80 << 20, **options}  # nothing goes through it


def told_the_port(genuine: Any) -> Any:
    """The one that Ray looks for in a file even if it was given: https://github.com/ray-project/ray/issues/65983."""

    def start_raylet(*arguments: Any, **options: Any) -> Any:
        given = inspect.signature(genuine).bind(*arguments, **options).arguments
        (Path(given["session_dir"]) / f"dashboard_agent_listen_port_{given['node_id']}").write_text("0")
        return genuine(*arguments, **options)

    return start_raylet


@pytest.mark.nightly
def test_the_others_in_a_network_of_their_own() -> None:
    if INSIDE in os.environ:
        pytest.skip("this is it")
    enter = ["unshare", "-n", "sh", "-c", NETWORK, "sh"]
    if (
        not shutil.which("unshare")
        or not shutil.which("ip")
        or subprocess.run([*enter, "true"], check=False).returncode
    ):
        pytest.skip("needs the right to make a network namespace (unshare -n) and ip")
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-m", "nightly or not nightly", __file__]
    result = subprocess.run([*enter, *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-1000:]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """One cluster for all tests, a head without room for workers."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in QUIET.items():
            patch.setenv(name, value)
        import ray
        from ray._private import services
        from ray.cluster_utils import Cluster

        patch.setattr(services, "start_raylet", told_the_port(services.start_raylet))
        cluster = Cluster(initialize_head=True, head_node_args=node(num_cpus=0, include_dashboard=False))
        try:
            cluster.add_node(**node(num_cpus=1))
            ray.init(address=cluster.address, log_to_driver=False)
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


@pytest.fixture
def clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(resumable, "segment_length", lambda height, width: 5)
    return Clip(times=tuple(range(0, 30 * 512, 512)), size=(48, 64)).write(tmp_path / "clip")


@inside
def test_a_cluster_that_loses_a_node_writes_the_file_of_one_process(
    cluster: Any, clip: Path, cpu_plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = deblur(clip, clip.with_name("alone.mp4"), cpu_plan, execution=Execution(threads=1, in_flight=1))
    doomed = cluster.add_node(**node(num_cpus=1))
    seen = list[int]()

    def lose(progress: object) -> None:
        seen.append(1)
        if len(seen) == 2:
            cluster.remove_node(doomed, allow_graceful=False)

    result = deblur(clip, clip.with_name("far.mp4"), cpu_plan, execution=ON_CLUSTER, observer=Observer(progress=lose))
    assert len(seen) > 4
    assert digests(result.output) == digests(alone.output)


@inside
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


DRIVER = """
import sys
from bsst.runtime.jobs import resumable
resumable.segment_length = lambda height, width: 5
from bsst import cli
cli.run(sys.argv[1:])
"""


@inside
def test_a_driver_that_is_killed_is_followed_by_one_that_goes_on(cluster: Any, clip: Path, cpu_plan: Path) -> None:
    alone = deblur(clip, clip.with_name("alone.mp4"), cpu_plan, execution=Execution(threads=1, in_flight=1))
    out = clip.with_name("far.mp4")
    command = [sys.executable, "-c", DRIVER, str(cpu_plan), str(clip), "-o", str(out), "--ray", cluster.address]
    command += ["--threads", "1", "--in-flight", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as driver:
        while not (lines := _journal(clip.parent)):
            assert driver.poll() is None, driver.stderr.read() if driver.stderr else ""
            time.sleep(0.01)
        driver.kill()
    assert not out.exists()
    assert 0 < lines < 6
    again = subprocess.run(command, check=True, stderr=subprocess.PIPE, text=True)
    assert "goes on with an unfinished job" in again.stderr
    assert digests(out) == digests(alone.output)
    assert not work_folders(clip.parent)


def _journal(folder: Path) -> int:
    """Segments that the job in a folder has finished."""
    return sum(path.read_text().count("\n") for path in folder.glob(".bsst-*/journal.jsonl"))


@inside
def test_a_worker_with_another_plan_is_refused(cluster: Any, cpu_plan: Path, tmp_path: Path) -> None:
    task = Task(video=tmp_path, folder=tmp_path, run=(), tile=(64, 128), tiling=None, settings=None, hwaccel="none")  # type: ignore[arg-type]
    with pytest.raises(PlanError, match="like the rest of the job"):
        list(restore_on_cluster([task], cpu_plan, "0" * 64, address="auto", on_gpu=False, threads=1, in_flight=1))


@inside
def test_a_cluster_without_a_gpu_is_refused_for_a_plan_that_needs_one(cluster: Any, tmp_path: Path) -> None:
    task = Task(video=tmp_path, folder=tmp_path, run=(), tile=(64, 128), tiling=None, settings=None, hwaccel="none")  # type: ignore[arg-type]
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


def test_a_cluster_that_does_not_start_here_is_one_error(
    clip: Path, cpu_plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    def init(address: str | None = None, **options: object) -> None:
        raise ConnectionError("no instance") if address else Exception("The node timed out.\nThis could happen")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(BsstError, match=r"expected to start Ray on this machine, it did not: The node timed out\.;"):
        deblur(clip, plan=cpu_plan, execution=ON_CLUSTER)
    assert not work_folders(clip.parent)
