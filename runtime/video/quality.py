"""The encoder's default quality: nearly all of the network's gain must survive it.

Measured on nine held-out clips (x264, preset medium), loss against the restored frames in dB, mean and worst, and size
relative to lossless H.264:

    crf   16     8      4      2      1
    mean  1.29   0.40   0.13   0.08   0.06      aq-mode none from 4 on
    worst 4.68   1.60   0.48   0.28   0.19
    size  0.14   0.37   0.68   0.80   0.86

A network changes fine detail by little, and that is what an encoder drops first.
"""

from __future__ import annotations

__all__ = ["DEFAULT_CRF"]

DEFAULT_CRF = 1
