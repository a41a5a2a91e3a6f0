"""How far a plan may be from its reference: budgets by precision, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bsst.calibration.parity.compare import Comparison
from bsst.calibration.parity.stages import StageFigures, worst_stage
from bsst.plan.manifest import Precision

__all__ = ["Budgets", "Check", "default_budgets", "verdict"]


@dataclass(frozen=True, kw_only=True)
class Budgets:
    """Limits of one comparison."""

    psnr: float
    """Least dB between plan and reference over all frames."""
    loss: float
    """Most dB of PSNR against ground truth that the plan may lose to the reference, mean over frames."""
    stage: float
    """Least dB of every stage on the reference's inputs; bisecting looks for the first stage below it."""
    exact_tables: bool = True
    """Tables of sparse attention must not change; only float32 can promise that, as frames may be equally blurred."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the verdict."""

    name: str
    """What was measured."""
    limit: str
    """What it had to be, in words."""
    got: float
    within: bool


def default_budgets(precision: Precision, *, ground_truth: bool) -> Budgets:
    """Budgets of a precision.

    int8 has to keep one of two promises, as when its stages are chosen: 0.1 dB against ground truth where there is
    any, else 45 dB against the reference.
    """
    return {
        "fp32": Budgets(psnr=80, loss=0.02, stage=80),
        "fp16": Budgets(psnr=50, loss=0.02, stage=40, exact_tables=False),
        "bf16": Budgets(psnr=40, loss=0.1, stage=25, exact_tables=False),
        "int8": Budgets(psnr=0 if ground_truth else 45, loss=0.1, stage=20, exact_tables=False),
    }[precision]


def verdict(comparison: Comparison, stages: Sequence[StageFigures], budgets: Budgets) -> tuple[Check, ...]:
    """Every check that can be made; the plan is within its budget if all of them are."""
    worst = worst_stage(stages)
    checks = [
        Check(
            name="PSNR against the reference, dB",
            limit=f"at least {budgets.psnr:g}",
            got=comparison.psnr,
            within=comparison.psnr >= budgets.psnr,
        ),
        Check(
            name=f"PSNR of the worst stage, {worst.name}, dB",
            limit=f"at least {budgets.stage:g}",
            got=worst.isolated.psnr,
            within=worst.isolated.within(budgets.stage, exact_tables=False),
        ),
        Check(
            name="values that are not finite",
            limit="0",
            got=comparison.not_finite["plan"],
            within=comparison.not_finite["plan"] == 0,
        ),
    ]
    if budgets.exact_tables:
        changed = sum(stage.isolated.entries_changed for stage in stages)
        checks.append(Check(name="entries of attention tables changed", limit="0", got=changed, within=changed == 0))
    plan, reference = (comparison.scores(kind, mean="frames") for kind in ("plan", "reference"))
    if plan is not None and reference is not None:
        loss = 0.0 if plan.psnr == reference.psnr else reference.psnr - plan.psnr  # both may be infinite
        checks.append(
            Check(
                name="PSNR lost against ground truth, dB",
                limit=f"at most {budgets.loss:g}",
                got=loss,
                within=loss <= budgets.loss,
            )
        )
    return tuple(checks)
