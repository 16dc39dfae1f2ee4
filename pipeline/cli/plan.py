"""How people read the answer of `pipeline plan`."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.billing.bill import Happened, Plan, pays_in_words
from pipeline.params.recipe import PLAIN


def plan_lines(answer: Mapping[str, Any]) -> list[str]:
    """The bill as two tables: what was predicted, and what happened where it did."""
    plan, happened = Plan.model_validate(answer["predicted"]), Happened.model_validate(answer["happened"])
    height, width = plan.size
    lines = [f"{plan.images:,} images, {plan.views:,} views of {width}x{height} px, measured on {plan.device}", ""]
    lines += [*_table(_stores(plan, happened)), "", *_table(_students(plan, happened), words=2)]
    if plan.untrained:
        lines += ["", f"Not trained yet: {', '.join(plan.untrained)}. Their time is that of an untrained network; "
                      "their stores will be smaller."]
    return lines


def _stores(plan: Plan, happened: Happened) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("store", "seconds", "happened", "MB", "happened")]
    for name, cost in plan.stores.items():
        made = happened.stores.get(name)
        rows.append((name, _number(cost.seconds), _number(made.seconds if made else None),
                     _number(cost.bytes / 1e6), _number(made.bytes / 1e6 if made else None)))
    every = plan.stores.values()
    rows.append(("all", _number(sum(cost.seconds for cost in every)), "",
                 _number(sum(cost.bytes for cost in every) / 1e6), ""))
    return rows


def _students(plan: Plan, happened: Happened) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [("seconds of an epoch", "recipe", "plain", "happened", "from the store", "happened",
                                    "live teachers", "the store pays from")]
    for student, cost in plan.students.items():
        for recipe, taught in cost.taught.items():
            rows.append((student, recipe, _number(cost.plain), _number(happened.epoch(student, PLAIN)),
                         _number(taught.offline), _number(happened.epoch(student, recipe)), _number(taught.live),
                         pays_in_words(plan.pays_from(student, recipe), cost.epochs)))
    return rows


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _table(rows: Sequence[Sequence[str]], words: int = 1) -> list[str]:
    """Aligned columns, the first `words` of them to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) if place < words else cell.rjust(width)
                      for place, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip() for row in rows]
