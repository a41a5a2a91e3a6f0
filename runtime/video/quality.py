"""The encoder's default quality: nearly all of the network's gain must survive it.

`benchmarks/encoder_cost.py`, 28 held-out clips as the packaged network restored them before its restraint was trained
for the last time; x264 (preset medium, one quantiser for all, see `encoder.FAITHFUL`): loss in dB of PSNR against
the restored frames, the encoder's error as a share of the network's change, size against lossless H.264, which few
players show:

    crf     16     12     8      4      3      2      1
    mean    0.70   0.36   0.18   0.06   0.03   0.02   0.01
    worst   2.71   1.30   0.63   0.21   0.13   0.07   0.05
    share   1.08   0.65   0.34   0.11   0.07   0.04   0.03
    size    0.29   0.44   0.66   0.92   0.98   1.05   1.11

A network changes fine detail by little, and that is what an encoder drops first.
"""

from __future__ import annotations

__all__ = ["DEFAULT_CRF"]

DEFAULT_CRF = 2
