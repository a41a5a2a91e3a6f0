"""The PyTorch reference in the place of a plan: the same wiring over the modules of the stages."""

from __future__ import annotations

from collections.abc import Iterator

import onnx

from bsst.calibration.parity.bisect import trusted_graphs
from bsst.calibration.parity.judge import Reference
from bsst.calibration.parity.stages import single_precision
from bsst.errors import CheckpointError
from bsst.export.session_torch import TorchSession
from bsst.export.stage import Geometry
from bsst.export.stages import pipeline_stages
from bsst.export.trace import trace_stage
from bsst.plan.manifest import Manifest
from bsst.plugins.registry import attach_functions
from bsst.reference.checkpoint import Networks
from bsst.runtime.devices.host import HostSession
from bsst.runtime.network.network import host_network

__all__ = ["torch_reference"]


def torch_reference(networks: Networks, manifest: Manifest) -> Reference:
    """Reference networks at the sizes of a plan.

    Raises:
        CheckpointError: the plan was made from other weights, so that a difference would say nothing about it.
    """
    if networks.sha256 != manifest.weights_sha256:
        raise CheckpointError(
            f"expected the weights that the plan was made from ({manifest.label}, SHA-256 "
            f"{manifest.weights_sha256[:12]}), got {networks.label}, {networks.sha256[:12]}; give them with --weights"
        )
    geometry = Geometry(frames=manifest.frames, tile=manifest.tile, flow_size=manifest.flow_size)
    stages = {stage.name: stage for stage in pipeline_stages(networks.network, networks.raft, geometry)}
    sessions: dict[str, HostSession] = {name: TorchSession(stage) for name, stage in stages.items()}

    def graphs(name: str) -> Iterator[onnx.ModelProto]:
        return trusted_graphs(attach_functions(trace_stage(stages[name]), bodies="cpu"))

    return Reference(
        name="PyTorch, float32",
        restorer=host_network(single_precision(manifest), sessions),
        sessions=sessions,
        graphs=graphs,
    )
