"""Which versions of TensorRT build right engines, and which of them with plugins: the only place that says so.

Source: TensorRT release notes; pytorch/TensorRT#4074 and its feature gates for 10.14.
"""

from __future__ import annotations

from bsst.errors import ModelError

__all__ = ["check_tensorrt_version", "supports_plugins", "supports_same_capability"]

OLDEST = (10, 3)
OLDEST_WITH_PLUGINS = (10, 9)
BROKEN = (10, 14)


def supports_plugins(version: str) -> bool:
    """Whether plugins compiled ahead of time (`tensorrt.plugin.aot_impl`) work in this version."""
    return _release(version) >= OLDEST_WITH_PLUGINS and _release(version) != BROKEN


def supports_same_capability(version: str) -> bool:
    """Whether `HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY` is there; the bindings of 10.3 lack it."""
    return _release(version) >= (10, 9)


def check_tensorrt_version(version: str, *, plugins: bool) -> None:
    """Refuse versions that are too old or known to give wrong results.

    Args:
        version: as the package states it, such as "10.13.3.9".
        plugins: whether the graphs hold plugins compiled ahead of time.

    Raises:
        ModelError: with the reason and the versions that work.
    """
    release = _release(version)
    if release == BROKEN:
        reason = (
            "Python plugins are broken in 10.14, and float32 GridSample inside a float16 network gives wrong pixels"
        )
    elif release < OLDEST:
        reason = "strongly typed networks at opset 19 came with the version of JetPack 6, 10.3"
    elif plugins and release < OLDEST_WITH_PLUGINS:
        reason = "plugins compiled ahead of time came with 10.9"
    else:
        return
    oldest = OLDEST_WITH_PLUGINS if plugins else OLDEST
    raise ModelError(
        f"expected TensorRT {'.'.join(map(str, oldest))} or later except 10.14, got {version}: {reason}; "
        "install another version" + (", or build without plugins" if plugins and release >= OLDEST else "")
    )


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])
