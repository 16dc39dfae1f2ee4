"""One command per thing a person does; the work is in `stages` and is imported when it is needed."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline import paths
from pipeline.cli.options import OneLineErrors, as_json, devices, print_answer, reads_params, restart
from pipeline.cli.store_commands import store
from pipeline.seeds import SEEDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.params import Params

EPILOG = "`dvc repro` runs the line that params.yaml describes, from prepare to report. Docs: README.md."


@click.group(cls=OneLineErrors, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"],
                                                                 "max_content_width": 120})
@click.version_option(package_name="centernet-distill")
def main() -> None:
    """Light CenterNet detectors from heavy ones: run the teachers once, store what they say, teach many students."""


@main.command()
@click.option("--strict", is_flag=True, help="Fail on the first bad file instead of setting it aside.")
@as_json
@reads_params
def prepare(params: "Params", strict: bool, as_json: bool) -> None:
    """Write the data set in VOC layout, with a manifest, to data/<name>."""
    from stages import ahead
    from stages import prepare as stage

    ahead.check(params)
    manifest = stage.run(params, strict=strict)
    shown = "name", "classes", "splits", "counts", "set_aside", "fingerprint"  # the file has the rest
    print_answer(manifest if as_json else {key: manifest[key] for key in shown}, as_json)


@main.command()
@restart
@as_json
@reads_params
def record_views(params: "Params", restart: bool, as_json: bool) -> None:
    """Draw the views of every training image once, into targets/views.zarr."""
    from stages import ahead
    from stages import record_views as stage

    _current_data(params)
    ahead.check_with_data(params)
    print_answer(stage.run(params, restart=restart), as_json)


@main.command()
@click.argument("name")
@devices
@restart
@as_json
@reads_params
def train_teacher(params: "Params", name: str, devices: str, restart: bool, as_json: bool) -> None:
    """Train the teacher NAME on ground truth, into models/teachers/NAME.

    A finished one of other params or code is replaced with --restart alone.
    """
    from stages import ahead
    from stages import train_teacher as stage

    _current_data(params)
    ahead.check_with_data(params)
    print_answer(stage.run(params, name, devices=devices, restart=restart, keep=True), as_json,
                 lambda summary: [_trained(paths.teacher_model(name), summary)])


@main.command()
@click.argument("names", nargs=-1)
@devices
@click.option("--dry-run", is_flag=True, help="Only say how many views, how many bytes and how long.")
@restart
@as_json
@reads_params
def dump_teachers(params: "Params", names: tuple[str, ...], devices: str, dry_run: bool, restart: bool,
                  as_json: bool) -> None:
    """Run the teachers NAMES (default: all) over the recorded views, into targets/NAME.zarr."""
    from stages import dump_teachers as stage

    _current_data(params)
    print_answer(stage.run_all(params, names, devices=devices, dry_run=dry_run, restart=restart), as_json)


@main.command()
@click.argument("keys", nargs=-1)
@restart
@as_json
@reads_params
def build_ensemble(params: "Params", keys: tuple[str, ...], restart: bool, as_json: bool) -> None:
    """Merge the teachers' stores into targets/ensemble-KEY.zarr (default: all ensembles)."""
    from stages import ensembles

    _current_data(params)
    print_answer(ensembles.run(params, keys, restart=restart), as_json)


@main.command()
@click.option("--student", "students", multiple=True, help="Entries of `students` (default: those of `distill`).")
@click.option("--recipe", "recipes", multiple=True, help="Entries of `recipes` (default: those of `distill`).")
@click.option("--seed", "seeds", multiple=True, type=click.IntRange(0, SEEDS - 1),
              help="Default: the seeds of `distill`.")
@devices
@restart
@as_json
@reads_params
def distill(params: "Params", students: tuple[str, ...], recipes: tuple[str, ...], seeds: tuple[int, ...],
            devices: str, restart: bool, as_json: bool) -> None:
    """Teach students from the store, into models/students/STUDENT/RECIPE/seedN. No teacher is loaded.

    Students that read the same share one pass over the store. What is finished is left as it is; what other
    params or code left is replaced with --restart alone.
    """
    from stages import distill as stage

    _current_data(params)
    print_answer(stage.run_all(params, students, recipes, seeds, devices=devices, restart=restart), as_json,
                 lambda answer: [_trained(folder, summary) for folder, summary in answer.items()])


@main.command()
@as_json
@reads_params
def evaluate(params: "Params", as_json: bool) -> None:
    """Score what is trained, and ensembles, on test (and unseen, val and train), into results/.

    It prints mAP@.5 (area) on test in percent; the other metrics are in the files.
    """
    from stages import evaluate as stage

    _current_data(params)

    def lines(answer: dict[str, float | None]) -> list[str]:
        return [f"{folder}: {'-' if score is None else f'{score:.1f} % mAP@.5 on test'}"
                for folder, score in answer.items()]

    print_answer(stage.run(params), as_json, lines)


@main.command()
@as_json
@reads_params
def report(params: "Params", as_json: bool) -> None:
    """Write report/index.html and report/report.md from results/."""
    from stages import report as stage

    print_answer(stage.run(params), as_json)


@main.command()
@click.option("--student", "students", multiple=True, help="Entries of `students` (default: those of `distill`).")
@click.option("--recipe", "recipes", multiple=True, help="Entries of `recipes` (default: those of `distill`).")
@as_json
@reads_params
def plan(params: "Params", students: tuple[str, ...], recipes: tuple[str, ...], as_json: bool) -> None:
    """Predict what stores and epochs will cost, from a few measured steps; compare with what happened."""
    from pipeline.cli.plan import plan_lines
    from stages import plan as stage

    _current_data(params)
    print_answer(stage.run(params, students, recipes), as_json, plan_lines)


@main.group()
def study() -> None:
    """Try variations of recipes, and keep what came out under version control."""


@study.command("screen")
@click.argument("groups", nargs=-1)
@as_json
@reads_params
def study_screen(params: "Params", groups: tuple[str, ...], as_json: bool) -> None:
    """Train the variations of GROUPS (default: all under `screening`) and rank them by AP on val."""
    from stages import screening as stage

    _current_data(params)
    print_answer(stage.run(params, groups), as_json)


@study.command("collect")
@as_json
@reads_params
def study_collect(params: "Params", as_json: bool) -> None:
    """Add the cells of results/ to docs/study/ and write the page about all that are there."""
    from stages import study as stage

    _current_data(params)
    print_answer(stage.run(params), as_json)


@main.command()
@click.argument("name", required=False)
@click.option("--out", type=click.Path(path_type=Path), default="params.yaml", show_default=True)
@click.option("--force", is_flag=True, help="Overwrite a file that is not an unchanged profile.")
def profile(name: str | None, out: Path, force: bool) -> None:
    """List the profiles, or write the profile NAME to params.yaml."""
    from pipeline.params import profiles

    if name is None:
        for key, summary in profiles.summaries().items():
            click.echo(f"{key:10} {summary}")
    else:
        click.echo(f"wrote {profiles.write(name, out, force=force)}")


@main.command()
@click.option("--all", "everything", is_flag=True,
              help="Unfinished work too: it cannot be continued then. And the students of screenings.")
def clean(everything: bool) -> None:
    """Delete the work folders of finished stages (results stay).

    From these folders `dvc repro` takes over what was run by hand, so run it, or `dvc commit`, before: DVC deletes
    results that it does not know, and makes them again.
    """
    from stages import cleaning

    click.echo(f"freed {cleaning.clean(everything=everything) / 1e6:.1f} MB in {paths.WORK}")


def _current_data(params: "Params") -> None:
    """Refuses data that other params prepared."""
    from stages import ahead

    ahead.check_prepared(params)


def _trained(folder: "Path | str", summary: "Mapping[str, Any]") -> str:
    """A run in one line; its summary.json has the rest."""
    if not summary["steps"]:
        return f"{folder}: taken as it is"
    return (f"{folder}: {summary['passes']:,} passes in {summary['seconds']:,.0f} s, loss at the end "
            f"{summary['losses']['loss']:.4g}")


main.add_command(store)
