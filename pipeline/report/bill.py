"""The bill: what stores and epochs cost, beside what `pipeline plan` predicted."""

from pathlib import Path

from pipeline import paths
from pipeline.billing.bill import (
    Happened,
    Plan,
    break_even,
    images_of,
    pays_in_words,
    read_plan,
    stores_made,
    stores_of,
)
from pipeline.params.recipe import PLAIN
from pipeline.report.document import DASH, Cell, Column, Section, Table, number, words
from pipeline.report.results import middle
from pipeline.report.study import Study, label
from storage import in_short


def bill_sections(study: Study, root: Path) -> list[Section]:
    """The section, once something was made or planned.

    Args:
        study: names and data.
        root: the project's folder, with targets/, models/ and results/.

    Raises:
        UserError: results/plan.json is broken.
    """
    params = study.params
    path = root / paths.plan_results()
    plan = read_plan(path) if path.is_file() else None
    text = ["What was paid once, before any student, and what an epoch of a student costs with it."]
    if plan and (different := plan.differences(params, study.data)):
        text.append(f"What was planned is left out, it was for other params or images ({in_short(different)}); to plan "
                    "these: `pipeline plan`, then `pipeline report`.")
        plan = None
    stores = ["views", *params.teachers, *map(paths.ensemble_name, params.ensembles)]
    happened = Happened(stores=stores_made(root, stores), epochs=_epochs(study))
    tables = [stores_table(stores, plan, happened), epochs_table(study, plan, happened)]
    tables = [table for table in tables if table.rows]
    return [Section(key="bill", title="The bill", text=text, tables=tables)] if tables else []


def _epochs(study: Study) -> dict[str, dict[str, float]]:
    """Seconds of an epoch by student and recipe, the median over the runs that have results."""
    taken: dict[str, dict[str, float]] = {}
    for (student, recipe), runs in study.results.runs.items():
        images = images_of(study.params.recipes[recipe], study.data)
        seconds = middle(run.seconds / run.passes * images for run in runs.values() if run.passes and run.seconds)
        if seconds is not None:
            taken.setdefault(student, {})[recipe] = seconds
    return taken


def stores_table(stores: list[str], plan: Plan | None, happened: Happened) -> Table:
    """Seconds and bytes of every store that there is or that was planned."""
    rows = []
    for name in stores:
        made, planned = happened.stores.get(name), plan.stores.get(name) if plan else None
        if made or planned:
            rows.append([
                words(name),
                number(made.seconds if made else None), number(planned.seconds if planned else None),
                number(made.bytes / 1e6 if made else None), number(planned.bytes / 1e6 if planned else None),
            ])
    untrained = f" {', '.join(plan.untrained)} had no weights then." if plan and plan.untrained else ""
    return Table(
        key="bill-stores",
        title="Stores",
        caption="Paid once: seconds of writing and megabytes under targets/.",
        columns=[
            Column(title="Store", numeric=False),
            Column(title="happened", group="Seconds"), Column(title="planned", group="Seconds"),
            Column(title="happened", group="MB"), Column(title="planned", group="MB"),
        ],
        rows=rows,
        notes=[f"Planned by `pipeline plan` on {plan.device}.{untrained}"] if plan else [],
    )


def epochs_table(study: Study, plan: Plan | None, happened: Happened) -> Table:
    """Seconds of an epoch of every student and taught recipe, and from when on the stores pay."""
    params, rows = study.params, []
    for student in params.students:
        for name, recipe in params.recipes.items():
            epoch, alone = happened.epoch(student, name), happened.epoch(student, PLAIN)
            cost = plan.students.get(student) if plan else None
            planned = cost.taught.get(name) if cost else None
            if not recipe.reads_a_store or not (epoch or planned):
                continue
            offline = epoch or (planned.offline if planned else None)
            live = offline * planned.live / planned.offline if offline and planned else None
            rows.append([
                words(label(student)), words(study.taught_by(name)),
                number(alone), number(cost.plain if cost else None),
                number(epoch), number(planned.offline if planned else None),
                number(live),
                _pays(live, offline, _setup(stores_of(recipe), plan, happened),
                      cost.epochs if cost else None),
            ])
    return Table(
        key="bill-epochs",
        title="An epoch of a student",
        caption="Seconds; of students that were taught in one pass, each has its own and a part of the loading. "
                "With live teachers: the epoch from the store, times what the plan measured of both. "
                "The stores pay once students have been trained for so many epochs in all.",
        columns=[
            Column(title="Student", numeric=False), Column(title="Taught by", numeric=False),
            Column(title="happened", group="Alone"), Column(title="planned", group="Alone"),
            Column(title="happened", group="From the store"), Column(title="planned", group="From the store"),
            Column(title="estimated", group="Live teachers"),
            Column(title="The store pays from"),
        ],
        rows=rows,
        notes=[] if plan else [f"To fill a {DASH}: `pipeline plan`, then `pipeline report`."],
    )


def _setup(names: list[str], plan: Plan | None, happened: Happened) -> float | None:
    """Seconds that the stores took, or will take."""
    costs = [happened.stores.get(name) or (plan.stores.get(name) if plan else None) for name in names]
    return None if None in costs else sum(cost.seconds for cost in costs if cost)


def _pays(live: float | None, offline: float | None, setup: float | None, of_one: float | None) -> Cell:
    if live is None or offline is None or setup is None or of_one is None:
        return Cell(text=DASH)
    epochs = break_even(setup, live, offline)
    return Cell(text=pays_in_words(epochs, of_one), value=epochs)
