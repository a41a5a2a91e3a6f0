"""A provider is tried on every stage of a real plan in a process of its own; ONNX Runtime's CPU stands in for it."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from bsst.engines.doctor.stage_trial import record_stages, try_stages
from bsst.plan.archive import open_plan

CPU = "CPUExecutionProvider"


@pytest.fixture(scope="module")
def recorded(cpu_plan: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    folder, plan = tmp_path_factory.mktemp("stages"), open_plan(cpu_plan)
    seconds = record_stages(plan, folder, threads=1)
    assert min(seconds.values()) > 0
    return folder, {stage.name: plan.member(stage.name) for stage in plan.manifest.stages}


def test_the_cpu_is_right_about_every_stage(recorded: tuple[Path, dict[str, bytes]]) -> None:
    folder, models = recorded
    trials, failure = try_stages(models, folder, CPU, time_limit_seconds=120)
    assert failure == ""
    assert [trial.name for trial in trials] == list(models)
    assert min(trial.psnr for trial in trials) > 100


def test_a_stage_that_comes_out_wrong_and_one_that_does_not_load_are_named(
    recorded: tuple[Path, dict[str, bytes]],
) -> None:
    folder, models = recorded
    wrong = onnx.load_from_string(models["fuse"])
    weight = next(tensor for tensor in wrong.graph.initializer if len(tensor.dims) == 4)
    values = onnx.numpy_helper.to_array(weight).copy()
    values[:, 0] += 1  # one input channel
    weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    broken = {"encode": models["encode"], "fuse": wrong.SerializeToString(), "decode": b"no graph"}
    trials, failure = try_stages(broken, folder, CPU, time_limit_seconds=120)
    assert [(trial.name, trial.psnr > 50) for trial in trials] == [("encode", True), ("fuse", False)]
    assert failure.startswith("stage decode: exit status 1, bsst.errors.ModelError: stage decode: expected a graph")


def test_a_provider_that_hangs_is_stopped(recorded: tuple[Path, dict[str, bytes]]) -> None:
    folder, models = recorded
    trials, failure = try_stages(models, folder, CPU, time_limit_seconds=0.1)
    assert (trials, failure) == ((), "stage flow_features: stopped at its time limit of 0.1 s")
