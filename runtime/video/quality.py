"""The encoder's default quality: nearly all of the network's gain must survive it.

`benchmarks/encoder_cost.py`, sixteen held-out clips, x264 (preset medium, aq-mode none): loss in dB of PSNR against the
restored frames, the encoder's error as a share of the network's change, size against lossless H.264:

    crf     16     12     8      4      2      1
    mean    1.06   0.59   0.33   0.15   0.09   0.07
    worst   3.64   2.22   1.28   0.60   0.37   0.27
    share   1.65   0.90   0.47   0.23   0.15   0.12
    size    0.20   0.31   0.47   0.68   0.80   0.86

A network changes fine detail by little, and that is what an encoder drops first.
"""

from __future__ import annotations

__all__ = ["DEFAULT_CRF"]

DEFAULT_CRF = 1
