"""A plan for another machine is refused with a remedy."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from bsst.errors import PlanError
from bsst.plan.archive import Compiler, require
from tests.bsst.plan.manifests import manifest


class TestRequire:
    rtx = manifest(
        target="tensorrt-rtx",
        compiler=Compiler(name="tensorrt-rtx", version="1.7.1.116"),
        compute_capabilities=("8.6", "12.0"),
    )

    def test_a_fitting_machine_passes(self) -> None:
        require(self.rtx, targets=["cpu", "tensorrt-rtx"], compiler_version="1.7.1.116", compute_capability="8.6")
        require(self.rtx)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"targets": ["cpu"]}, "expected a plan for cpu, got target tensorrt-rtx"),
            ({"targets": []}, "got target tensorrt-rtx"),
            ({"compiler_version": "1.7.1.117"}, r"1\.7\.1\.117 \(installed here\), got 1\.7\.1\.116"),
            ({"compute_capability": "8.9"}, r"capability 8\.9 \(this GPU\), got 8\.6, 12\.0.*--sm 89"),
            ({"compute_capability": "12.1"}, "got 8.6, 12.0"),
        ],
    )
    def test_each_difference_is_refused_with_a_remedy(self, arguments: dict[str, Any], message: str) -> None:
        with pytest.raises(PlanError, match=message) as refusal:
            require(self.rtx, **arguments)
        assert "bsst export" in str(refusal.value)

    @pytest.mark.parametrize(("capability", "fits"), [("7.5", False), ("8.0", True), ("8.9", True), ("12.0", True)])
    def test_a_plus_covers_newer_gpus_only(self, capability: str, fits: bool) -> None:
        spec = dataclasses.replace(self.rtx, compute_capabilities=("8.0+",))
        if fits:
            require(spec, compute_capability=capability)
        else:
            with pytest.raises(PlanError, match="8.0"):
                require(spec, compute_capability=capability)

    def test_an_onnx_plan_runs_in_another_version_and_on_any_gpu(self) -> None:
        require(manifest(), targets=["cpu"], compiler_version="1.99", compute_capability="7.5")
