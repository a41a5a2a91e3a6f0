"""Importing this module makes all plugins known to TensorRT, for the GPU of this machine.

`BuildOptions.plugin_modules` names it: TensorRT's parser finds only plugins that were registered before it runs.
"""

from __future__ import annotations

from bsst.engines.cuda_driver import find_gpus
from bsst.errors import UsageError
from bsst.plugins.registry import register_plugins

_gpus = find_gpus()
if not _gpus:
    raise UsageError("expected an NVIDIA GPU, for which plugins are compiled, got none; build on the machine that runs")
register_plugins(capability=int(_gpus[0].compute_capability.replace(".", "")))
