"""`bsst serve` as a program, with a plan that is offered beside the packaged one: nothing is faked."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest

from bsst.runtime.job import deblur
from bsst.runtime.jobs.options import Execution
from tests.media import Clip, decode

TOKEN = "a-token-of-the-tests"
TIMES = tuple(range(0, 13 * 512, 512))


@contextmanager
def started(folder: Path, plan: Path) -> Iterator[tuple[subprocess.Popen[str], httpx2.Client]]:
    options = ["--port", "0", "--threads", "1", "--folder", str(folder), "--plan", str(plan)]
    command = [sys.executable, "-m", "bsst", "serve", *options]
    environment = {**os.environ, "BSST_TOKEN": TOKEN}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/docs", address), address
            headers = {"Authorization": f"Bearer {TOKEN}"}
            with httpx2.Client(base_url=address.removesuffix("/docs"), headers=headers, timeout=60) as client:
                yield server, client
        finally:
            server.kill()


def until(client: httpx2.Client, job: dict[str, Any], reached: Any) -> dict[str, Any]:
    for _ in range(1200):
        now = client.get(f"/jobs/{job['id']}").json()
        if reached(now):
            return now
        time.sleep(0.1)
    raise AssertionError(now)


@pytest.mark.slow
def test_a_job_survives_the_kill_of_its_server_and_ends_in_the_frames_that_deblur_gives(
    cpu_plan: Path, tmp_path: Path
) -> None:
    clip = Clip(size=(70, 102), times=TIMES, audio="aac").write(tmp_path / "clip")
    expected = decode(deblur(clip, tmp_path / "expected.mp4", cpu_plan, execution=Execution(threads=1)).output)
    with started(tmp_path / "jobs", cpu_plan) as (server, client):
        job = client.post("/jobs", params={"name": "clip.mp4", "plan": cpu_plan.stem}, content=clip.read_bytes()).json()
        until(client, job, lambda now: now["info"])
        server.send_signal(signal.SIGKILL)
        server.wait(60)
    with started(tmp_path / "jobs", cpu_plan) as (server, client):
        done = until(client, job, lambda now: now["state"] in ("done", "failed"))
        assert (done["state"], done["error"], done["exit_status"]) == ("done", "", 0)
        (tmp_path / "result.mp4").write_bytes(client.get(f"/jobs/{job['id']}/result").content)
        found = decode(tmp_path / "result.mp4")
        assert (found.seconds, found.audio) == (expected.seconds, expected.audio)
        for planes, others in zip(found.planes, expected.planes, strict=True):
            assert all(np.array_equal(one, other) for one, other in zip(planes, others, strict=True))
        broken = client.post(
            "/jobs", params={"name": "broken.mp4", "plan": cpu_plan.stem}, content=clip.read_bytes()[:2000]
        ).json()
        refused = until(client, broken, lambda now: now["state"] == "failed")
        assert refused["error"].startswith("expected ")
        assert refused["exit_status"] == 3
        assert client.get(f"/jobs/{broken['id']}/source").status_code == 409
        server.send_signal(signal.SIGTERM)
        assert server.communicate(timeout=60)[1].endswith("stopped\n")
        assert server.returncode == 0


@pytest.mark.slow
def test_the_process_of_a_job_shows_a_second_side_by_side_before_the_whole_and_goes_on_without_one(
    cpu_plan: Path, tmp_path: Path
) -> None:
    clip = Clip(size=(48, 64), times=tuple(range(0, 15 * 2560, 2560)), audio="aac").write(tmp_path / "clip")
    request = {"source": str(clip), "plan": str(cpu_plan), "threads": 1, "crf": 1, "lossless": False}
    request |= {"start": "", "end": ""}
    nowhere = tmp_path / "none" / "preview.mp4"
    for preview, kinds in ((tmp_path / "preview.mp4", {"preview"}), (nowhere, set())):
        result = tmp_path / f"result{len(kinds)}.mp4"
        order = json.dumps({**request, "preview": str(preview), "result": str(result)})
        with subprocess.Popen(
            [sys.executable, "-m", "bsst.web.child"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as child:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write(order + "\n")
            child.stdin.flush()
            events = [json.loads(line) for line in child.stdout]
        assert child.returncode == 0
        names = [event["event"] for event in events]
        assert names[-1] == "result"
        assert {"preview"} & set(names) == kinds
        marks = [event.get("preview", False) for event in events if event["event"] == "progress"]
        assert marks == sorted(marks, reverse=True)
        assert len(decode(result).seconds) == 15
    shown = decode(tmp_path / "preview.mp4")
    assert (len(shown.seconds), shown.audio) == (5, [])
    assert shown.planes[0][0].shape == (48, 128)
    assert [event["message"] for event in events if event["event"] == "warning"][-1].startswith("no preview: expected")


def test_a_short_token_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("short\n")
    command = [sys.executable, "-m", "bsst", "serve", "--token-file", str(file), "--folder", str(tmp_path / "jobs")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert re.fullmatch(r"error: expected 16 or more ASCII characters in .*, got 5; take a longer token\n", done.stderr)
