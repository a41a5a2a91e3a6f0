"""The stages of the pipeline, one file each; `pipeline_stages` is the only list of them."""

from __future__ import annotations

from bsst.export.stage import Geometry, Stage, check_geometry
from bsst.export.stages.attend import attend_stage
from bsst.export.stages.decode import decode_stage
from bsst.export.stages.encode import encode_stage
from bsst.export.stages.flow import flow_stage
from bsst.export.stages.flow_features import flow_features_stage
from bsst.export.stages.fuse import fuse_stage
from bsst.export.stages.propagate import propagate_stage
from bsst.export.stages.refine import refine_stage
from bsst.export.stages.restore import restore_stage
from bsst.reference.bsstnet import BSSTNet
from bsst.reference.raft import RAFT

__all__ = ["pipeline_stages"]


def pipeline_stages(network: BSSTNet, raft: RAFT, geometry: Geometry) -> tuple[Stage, ...]:
    """All stages in the order in which a clip meets them.

    Raises:
        UsageError: the network cannot run at these sizes.
    """
    check_geometry(network.config, geometry)
    return (
        flow_features_stage(raft, geometry),
        flow_stage(raft, geometry),
        encode_stage(network, geometry),
        refine_stage(network, geometry),
        *(propagate_stage(network, branch, geometry) for branch in network.config.branches),
        fuse_stage(network, geometry),
        attend_stage(network, geometry),
        decode_stage(network, geometry),
        restore_stage(network, geometry),
    )
