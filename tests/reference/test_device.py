"""The reference keeps every tensor on the device of its input; shown with no GPU on PyTorch's device without data."""

import pytest
import torch
from torch.fx.experimental import _config as config_of_torch

from bsst.config import CONFIGS
from bsst.reference.bsstnet import BSSTNet
from bsst.reference.raft import RAFT, quarter_flow


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_no_tensor_of_a_clip_is_made_on_the_cpu(name: str) -> None:
    config = CONFIGS[name]
    with torch.device("meta"):
        raft, network = RAFT(config.raft).eval(), BSSTNet(config).eval()
    clip = torch.empty(8, 3, 256, 256, device="meta")
    forward, backward = quarter_flow(raft, clip)
    # The shape of nonzero depends on data; without data PyTorch must be told to assume the longest.
    with config_of_torch.patch(meta_nonzero_assume_all_nonzero=True):
        restored = network(clip[None], backward[None], forward[None])
    assert restored.is_meta
    assert restored.shape == (1, 8, 3, 256, 256)
