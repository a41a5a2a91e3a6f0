"""Within a limit of memory a job takes smaller tiles where the plan has them, and runs none that are too large."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from bsst.cli import dry_run
from bsst.errors import OutOfMemoryError
from bsst.plan.archive import Plan, open_plan
from bsst.runtime.estimate import Measured
from tests.media import Clip

LARGE, SMALL, MB = (64, 128), (64, 64), 1_000_000


@pytest.mark.parametrize(
    ("limit", "ran", "chosen", "told"),
    [
        (None, [LARGE], LARGE, None),
        (2000 * MB, [SMALL, LARGE], LARGE, None),
        (700 * MB, [SMALL], SMALL, SMALL),
    ],
    ids=["no limit", "room for the larger", "room for the smaller"],
)
def test_the_largest_tiles_that_fit_are_chosen_without_running_larger_ones(
    limit: int | None,
    ran: list[tuple[int, int]],
    chosen: tuple[int, int],
    told: tuple[int, int] | None,
    cpu_plan: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = plans_of_two_shapes(cpu_plan, monkeypatch)
    video = Clip(size=(60, 120)).write(tmp_path / "clip")
    job = dry_run.Job(video, None, threads=1, in_flight=1, limit=limit, window_overlap=None, tile_overlap=None)
    assert runs == ran
    assert (job.manifest.tile, job.tile, job.in_flight) == (chosen, told, 1)


def test_where_not_even_the_smallest_tiles_fit_the_limit_is_named(
    cpu_plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans_of_two_shapes(cpu_plan, monkeypatch)
    video = Clip(size=(60, 120)).write(tmp_path / "clip")
    with pytest.raises(OutOfMemoryError, match="expected to run within 300 MB, got 5.. MB"):
        dry_run.Job(video, None, threads=1, in_flight=2, limit=300 * MB, window_overlap=None, tile_overlap=None)


def plans_of_two_shapes(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """One plan under two sizes of tiles, of which the larger takes twice as much; returns what is run, as it is."""
    large = open_plan(path)
    small = dataclasses.replace(large, manifest=dataclasses.replace(large.manifest, tile=SMALL))
    runs: list[tuple[int, int]] = []

    def load(plan: Plan, **options: object) -> nullcontext[SimpleNamespace]:
        runs.append(plan.manifest.tile)
        return nullcontext(SimpleNamespace(line="", clip=400 * MB * (2 if plan is large else 1)))

    def measured(network: SimpleNamespace) -> Measured:
        peak = 100 * MB + network.clip
        return Measured(features_seconds=0, flow_seconds=0, clip_seconds=0, peak_bytes=peak, lane_bytes=network.clip)

    monkeypatch.setattr(dry_run, "fitting_plans", lambda *video, **options: [large, small])
    monkeypatch.setattr(dry_run, "load_network", load)
    monkeypatch.setattr(dry_run, "measure", measured)
    return runs
