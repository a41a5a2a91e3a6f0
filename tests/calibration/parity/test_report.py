"""Reports: one set of figures as JSON, text and HTML, and a real browser that shows the HTML without any network."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bsst.calibration.parity.bisect import Culprit, NodeFault
from bsst.calibration.parity.budget import Budgets, verdict
from bsst.calibration.parity.compare import compare
from bsst.calibration.parity.judge import Parity
from bsst.calibration.parity.plot import Line, drift_plot
from bsst.calibration.parity.report import parity_html, parity_summary, parity_text
from bsst.calibration.parity.stages import StageError, StageFigures
from bsst.plan.archive import open_plan
from bsst.runtime.network.network import DEFAULT_PLAN
from tests.calibration.parity.test_compare import Offset, footage
from tests.media import Identity

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
HOSTILE = 'a<script>document.title="owned"</script>&.plan'


def result(*, truth: bool = True, within: bool = True) -> Parity:
    clips = [footage(5, clip=name, start=start, **({} if truth else {"sharp": None})) for name, start in
             (("city & sky", 0), ("city & sky", 5), ("<b>bold</b>", 0))]  # fmt: skip
    comparison = compare(clips, Offset(lambda clip: clip + np.float32(1e-3)), Identity())
    budgets = Budgets(psnr=50 if within else 80, loss=5, stage=40)
    stages = tuple(
        StageFigures(name=name, isolated=StageError(a), accumulated=StageError(b), steps=steps, worst_inputs={})
        for name, a, b, steps in (
            ("encode", 120.0, 120.0, (120.0,)),
            ("propagate_backward_1", 90.0, 70.0, (90.0, 80.0, 70.0)),
            ("propagate_forward_1", 91.0, 60.0, (80.0, 70.0, 60.0)),
            ("decode", 44.0, 43.0, (43.0,)),
        )
    )
    return Parity(
        manifest=dataclasses.replace(open_plan(DEFAULT_PLAN).manifest, label="weights <of> a test"),
        size=1234567,
        reference="PyTorch, float32",
        comparison=comparison,
        stages=stages,
        budgets=budgets,
        checks=verdict(comparison, stages, budgets),
        culprit=Culprit(stage="decode", inputs="reference", error=StageError(44.0)),
        node=NodeFault(
            name="node_conv2d_3",
            operator="Conv",
            output="conv2d_3",
            error=StageError(40.5),
            position=7,
            compared=6,
            tensors=33,
        ),  # fmt: skip
    )


def summary(parity: Parity, deviations: tuple[str, ...] | None = ("windows of 12 frames, not 48",)) -> dict[str, Any]:
    return parity_summary(parity, plan=HOSTILE, footage="dvd", deviations=deviations)


def test_summary_is_json_and_holds_what_was_measured() -> None:
    parity = result()
    data = json.loads(json.dumps(summary(parity), allow_nan=False))
    assert data["difference"]["psnr"] == pytest.approx(60, abs=0.01)
    assert data["difference"]["psnr"] == parity.comparison.psnr
    assert data["worst_stage"] == "decode"
    assert data["within"] is True
    assert len(data["frames"]) == 15
    assert [stage["name"] for stage in data["stages"]] == [stage.name for stage in parity.stages]
    assert data["bisect"]["node"]["name"] == "node_conv2d_3"
    truth = data["ground_truth"]
    assert set(truth) == {"input", "reference", "plan"}
    assert truth["plan"]["frames"]["psnr"] == pytest.approx(
        np.mean([frame.scores["plan"].psnr for frame in parity.comparison.frames])
    )
    assert summary(result(truth=False))["ground_truth"] is None


def test_figures_that_are_not_finite_stay_valid_json() -> None:
    parity = result()
    frames = tuple(dataclasses.replace(frame, largest=math.inf) for frame in parity.comparison.frames)
    broken = dataclasses.replace(parity, comparison=dataclasses.replace(parity.comparison, frames=frames))
    assert json.loads(json.dumps(summary(broken), allow_nan=False))["difference"]["largest"] == "inf"
    assert "largest inf" in parity_text(summary(broken))
    assert "<td>inf</td>" in parity_html(summary(broken), parity.comparison.worst)


def test_text_names_every_figure() -> None:
    text = parity_text(summary(result(within=False)))
    for expected in (
        "PSNR 60.0 dB",
        "worst stage  decode",
        "plan, mean of sub-sequences",
        "input, mean of frames",
        "windows of 12 frames, not 48",
        "first bad node: Conv node_conv2d_3 (number 7), 40.5 dB",
        "OVER BUDGET    PSNR against the reference, dB: 60.00",
        "values that are not finite: 0 (0)",
        "(at least 80)",
    ):
        assert expected in text, text
    assert "followed exactly" in parity_text(summary(result(), ()))
    assert "protocol" not in parity_text(summary(result(), None))


def test_html_needs_nothing_else_and_escapes_names() -> None:
    parity = result()
    html = parity_html(summary(parity), parity.comparison.worst)
    assert not re.search(r"https?://|<link|@import|src=\"(?!data:)", html)
    assert "<script>document.title" not in html
    assert "<b>bold</b>" not in html
    assert "weights &lt;of&gt; a test" in html
    assert len(html) < 2_000_000


def test_plot_puts_figures_where_they_belong() -> None:
    plot = drift_plot([Line("a", [(3, 60.0), (4, 40.0), (5, math.inf), (7, 50.0)]), Line("b", [])], unit="frame")
    left, top, right, bottom = plot.area
    points = [tuple(map(float, point.split(","))) for point in plot.lines[0].points.split()]
    assert [x for x, _ in points] == pytest.approx([left, left + (right - left) / 4, right], abs=0.1)
    assert points[0][1] == pytest.approx(top)
    assert points[1][1] == pytest.approx(bottom)
    assert points[2][1] == pytest.approx((top + bottom) / 2, abs=0.1)
    assert plot.lines[1].points == ""
    assert [tick.text for tick in plot.x_ticks] == ["3", "4", "5", "6", "7"]
    assert {"40", "60"} <= {tick.text for tick in plot.y_ticks}
    assert drift_plot([Line("flat", [(0, 200.0)])], unit="frame").lines[0].points


PROBE = """
<script>
addEventListener("load", async () => {
  const seen = {title: document.title, errors: window.failures};
  const images = ["over", "under"].map((id) => document.getElementById(id));
  const choose = (id, value) => {
    const control = document.getElementById(id);
    control.value = value;
    control.dispatchEvent(new Event("input"));
  };
  await Promise.all(images.map((image) => image.decode()));
  seen.sizes = images.map((image) => [image.naturalWidth, image.naturalHeight]);
  seen.start = images.map((image) => image.src.length > 100 && image.src.startsWith("data:image/png;base64,"));
  seen.overlap = images[0].getBoundingClientRect().width === images[1].getBoundingClientRect().width;
  const before = images[0].src;
  choose("split", "80");
  seen.clip = getComputedStyle(images[0]).clipPath;
  choose("left", "ground truth");
  seen.changed = images[0].src !== before;
  seen.choices = [...document.getElementById("left").options].map((option) => option.text);
  seen.lines = [...document.querySelectorAll("polyline")].map((line) => line.points.numberOfItems);
  seen.rows = [...document.querySelectorAll("table")].map((table) => [table.id, table.rows.length]);
  seen.verdict = document.getElementById("verdict").textContent;
  seen.requests = performance.getEntriesByType("resource").map((e) => e.name).filter((n) => !/^data:/.test(n));
  const out = document.createElement("pre");
  out.id = "seen";
  out.textContent = JSON.stringify(seen);
  document.body.append(out);
});
</script>
"""
WATCH = "<script>window.failures = []; window.onerror = (message) => { window.failures.push(message); };</script>"


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome on the path, which is not here")
def test_a_browser_shows_tables_plots_and_a_working_slider(tmp_path: Path) -> None:
    parity = result()
    html = parity_html(summary(parity), parity.comparison.worst)
    page = tmp_path / "report.html"
    page.write_text(html.replace("<head>", "<head>" + WATCH).replace("</body>", PROBE + "</body>"), encoding="utf-8")
    seen = json.loads(_unescaped(_dom(page, tmp_path)))
    assert seen["errors"] == []
    assert seen["requests"] == []
    assert seen["title"] == f"Parity of {HOSTILE}"
    assert seen["sizes"] == [[70, 50], [70, 50]]
    assert seen["start"] == [True, True]
    assert seen["overlap"]
    assert seen["clip"] == "inset(0px 20% 0px 0px)"
    assert seen["changed"]
    assert seen["choices"][:3] == ["blurry", "plan", "reference"]
    assert seen["choices"][3].startswith("difference x ")
    assert seen["choices"][4:] == ["ground truth"]
    assert seen["lines"] == [5, 5, 5, 3, 3]
    assert dict(seen["rows"]) == {"budgets": 6, "difference": 8, "stages": 5, "truth": 7}
    assert seen["verdict"] == "Within every budget"


def _dom(page: Path, profile: Path) -> str:
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    command += [f"--user-data-dir={profile / 'profile'}", "--virtual-time-budget=10000", "--dump-dom", page.as_uri()]
    environment = os.environ | {"HOME": str(profile)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    found = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, f"the page did not finish: {done.stderr[-2000:]}"
    return found.group(1)


def _unescaped(text: str) -> str:
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
