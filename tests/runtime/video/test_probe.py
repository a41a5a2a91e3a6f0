"""The probe of the GPU's codecs: without a driver, and with stand-ins that work or fail. Not run here: a GPU."""

from __future__ import annotations

import pytest

from bsst.runtime.video import encoder as encoder_av
from bsst.runtime.video import probe as probe_av
from bsst.runtime.video.probe import probe_video
from tests.runtime.video.fake_video import in_software, use_nvdec
from tests.runtime.video.test_reader import WITHOUT_GPU

CODECS = ["H.264", "HEVC 10-bit"]


@WITHOUT_GPU
def test_without_a_driver_every_codec_has_ffmpegs_reason() -> None:
    found = probe_video()
    assert list(found) == ["NVDEC", "NVENC"]
    for problems in found.values():
        assert list(problems) == CODECS
        assert all("cuda" in problem.lower() for problem in problems.values())


def test_codecs_that_work_and_decoders_that_fail_later_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    real = encoder_av.nvenc_settings
    monkeypatch.setattr(probe_av, "nvenc_settings", lambda *args, **options: in_software(real(*args, **options)))
    with pytest.MonkeyPatch.context() as patch:
        use_nvdec(patch)
        assert probe_video() == {"NVDEC": dict.fromkeys(CODECS, ""), "NVENC": dict.fromkeys(CODECS, "")}
    use_nvdec(monkeypatch, fails_at=3)
    reason = "it failed after 3 frames: CUDA_ERROR_INVALID_VALUE"
    assert probe_video()["NVDEC"] == dict.fromkeys(CODECS, reason)


@pytest.mark.needs_cuda
def test_nvdec_works() -> None:
    assert probe_video()["NVDEC"] == dict.fromkeys(CODECS, "")
