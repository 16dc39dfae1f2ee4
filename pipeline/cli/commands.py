"""One command per thing a person does; the work is in `stages` and is imported when it is needed."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from pipeline.params import Params

F = TypeVar("F", bound=Callable[..., Any])

EPILOG = "Every command reads params.yaml; `dvc repro` runs all of them in order. Docs: README.md."


class OneLineErrors(click.Group):
    """A group whose commands end with one line and exit code 1 where a person can fix the cause."""

    def invoke(self, ctx: click.Context) -> Any:
        from stages.entry import one_line_errors

        with one_line_errors():
            return super().invoke(ctx)


def reads_params(command: F) -> F:
    """Adds `--params FILE` and `--set key=value`; the command gets the checked `params`."""

    def load(ctx: click.Context, _: click.Parameter, overrides: tuple[str, ...]) -> "Params":
        from pipeline.params import load_params

        return load_params(ctx.params.pop("params_file"), overrides)

    command = click.option("--set", "params", multiple=True, metavar="KEY=VALUE", callback=load,
                           help="Override a params key for this run; may be repeated.")(command)
    return click.option("--params", "params_file", type=click.Path(path_type=Path), default="params.yaml",
                        show_default=True, is_eager=True, help="The params file.")(command)


def devices(command: F) -> F:
    """Adds `--devices N`."""
    return click.option("--devices", default="auto", show_default=True, metavar="N",
                        help="Processes on this machine, one per accelerator; torchrun and SLURM are noticed.")(command)


restart = click.option("--restart", is_flag=True,
                       help="Begin anew: delete what earlier runs with these inputs left, take over nothing.")

as_json = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")


def path_or_url(value: str) -> Path | str:
    """What names a store: a Path would make one slash of the two in a URL."""
    from storage import is_url

    return value if is_url(value) else Path(value)


@click.group(cls=OneLineErrors, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="centernet-distill")
def main() -> None:
    """Light CenterNet detectors from heavy ones: run the teachers once, store what they say, teach many students."""


@main.command()
@click.option("--strict", is_flag=True, help="Fail on the first bad file instead of setting it aside.")
@as_json
@reads_params
def prepare(params: "Params", strict: bool, as_json: bool) -> None:
    """Write the data set in VOC layout, with a manifest, to data/<name>."""
    from stages import prepare as stage

    _answer(stage.run(params, strict=strict), as_json)


@main.command()
@restart
@as_json
@reads_params
def record_views(params: "Params", restart: bool, as_json: bool) -> None:
    """Draw the views of every training image once, into targets/views.zarr."""
    from stages import record_views as stage

    _answer(stage.run(params, restart=restart), as_json)


@main.command()
@click.argument("name")
@devices
@restart
@as_json
@reads_params
def train_teacher(params: "Params", name: str, devices: str, restart: bool, as_json: bool) -> None:
    """Train the teacher NAME on ground truth, into models/teachers/NAME."""
    from stages import train_teacher as stage

    _answer(stage.run(params, name, devices=devices, restart=restart), as_json)


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

    _answer(stage.run_all(params, names, devices=devices, dry_run=dry_run, restart=restart), as_json)


@main.command()
@click.argument("keys", nargs=-1)
@restart
@as_json
@reads_params
def build_ensemble(params: "Params", keys: tuple[str, ...], restart: bool, as_json: bool) -> None:
    """Merge the teachers' stores into targets/ensemble-KEY.zarr (default: all ensembles)."""
    from stages import ensembles

    _answer(ensembles.run(params, keys, restart=restart), as_json)


@main.command()
@click.option("--student", "students", multiple=True, help="Entries of `students` (default: those of `distill`).")
@click.option("--recipe", "recipes", multiple=True, help="Entries of `recipes` (default: those of `distill`).")
@click.option("--seed", "seeds", multiple=True, type=click.IntRange(min=0), help="Default: the seeds of `distill`.")
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

    _answer(stage.run_all(params, students, recipes, seeds, devices=devices, restart=restart), as_json)


@main.command()
@as_json
@reads_params
def evaluate(params: "Params", as_json: bool) -> None:
    """Score every trained teacher and student on the test split, into results/."""
    from stages import evaluate as stage

    _answer(stage.run(params), as_json)


@main.command()
@as_json
@reads_params
def report(params: "Params", as_json: bool) -> None:
    """Write report/index.html and report/report.md from results/."""
    from stages import report as stage

    _answer(stage.run(params), as_json)


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

    _answer(stage.run(params, groups), as_json)


@study.command("collect")
@as_json
@reads_params
def study_collect(params: "Params", as_json: bool) -> None:
    """Add the cells of results/ to docs/study/ and write the page about all that are there."""
    from stages import study as stage

    _answer(stage.run(params), as_json)


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
@click.option("--all", "everything", is_flag=True, help="Unfinished work too: it cannot be continued then.")
def clean(everything: bool) -> None:
    """Delete the work folders of finished stages (results stay)."""
    from stages import paths, work

    click.echo(f"freed {work.clean(everything=everything) / 1e6:.1f} MB in {paths.WORK}")


@main.group()
def store() -> None:
    """Look at a target store, check it, convert it."""


@store.command("info")
@click.argument("path", type=path_or_url)
@as_json
def store_info(path: Path | str, as_json: bool) -> None:
    """Say what the store at PATH, or at a URL, holds, in how many bytes and how exactly, and where it came from."""
    from pipeline.cli.store import info, info_lines

    _answer(info(path), as_json, info_lines)


@store.command("verify")
@click.argument("path", type=path_or_url)
@click.option("--live", type=click.IntRange(min=1), metavar="N", help="Also compute N random views again, and compare.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Which views --live takes.")
@click.option("--params", "params_file", type=click.Path(path_type=Path), default="params.yaml", show_default=True,
              help="The params file, for --live.")
@as_json
def store_verify(path: Path | str, live: int | None, seed: int, params_file: Path, as_json: bool) -> None:
    """Check every byte of the store at PATH, or at a URL, against its manifest; exit 1 where one is wrong."""
    from pipeline.cli.store import check, check_lines, compare

    answer = check(path)
    if live and not answer["problems"]:
        from pipeline.params import load_params

        answer["live"] = compare(load_params(params_file), path, live, seed=seed)
    _answer(answer, as_json, check_lines)
    if answer["problems"] or not answer.get("live", {"ok": True})["ok"]:
        raise SystemExit(1)


@store.command("show")
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("view")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The picture to write, e.g. x.png.")
@as_json
@reads_params
def store_show(params: "Params", path: Path, view: str, out: Path, as_json: bool) -> None:
    """Draw VIEW (a row, or IMAGE_ID:NUMBER): ground truth, each teacher's heatmap and boxes, the ensemble's."""
    from pipeline.cli.store import show

    answer = show(params, path, view, out)
    for note in answer.pop("notes"):
        click.echo(note, err=True)
    _answer(answer, as_json)


@store.command("convert")
@click.argument("source", metavar="A", type=path_or_url)
@click.argument("out", metavar="B", type=path_or_url)
@click.option("--backend", type=click.Choice(["zarr", "hdf5"]),
              help="What B is; default: by its ending (.zarr, .h5, .hdf5), or as A.")
@click.option("--encoding", "encodings", multiple=True, metavar="ARRAY=NAME",
              help="Another encoding for an array, e.g. heatmap=u8-sqrt-sparse; may be repeated.")
@click.option("--shard-views", type=click.IntRange(min=1), help="Views per file; default: as A.")
@as_json
def store_convert(source: Path | str, out: Path | str, backend: str | None, encodings: tuple[str, ...],
                  shard_views: int | None, as_json: bool) -> None:
    """Write the store A, a path or URL, again as B, perhaps in another backend or encodings, and check every byte."""
    from pipeline.cli.store import convert

    _answer(convert(source, out, backend=backend, encodings=encodings, shard_views=shard_views), as_json)


def _answer(answer: Any, as_json: bool, lines: Callable[[Any], list[str]] | None = None) -> None:
    """Prints a result to stdout, once for all processes: JSON for machines, `lines` of it for people."""
    from stages.work import is_main_process

    if not is_main_process():
        return
    if as_json:
        import json

        click.echo(json.dumps(answer, indent=1))
    else:
        for line in (lines or _lines)(answer):
            click.echo(line)


def _lines(answer: Any, indent: str = "") -> list[str]:
    if isinstance(answer, dict):
        lines = []
        for key, value in answer.items():
            if isinstance(value, list) and all(isinstance(item, str | int) for item in value):
                value = ", ".join(map(str, value))
            if isinstance(value, dict | list) and value:
                lines += [f"{indent}{key}:", *_lines(value, indent + "  ")]
            else:
                shown = f"{value:.4g}" if isinstance(value, float) else "-" if value in (None, "", {}) else value
                lines.append(f"{indent}{key}: {shown}")
        return lines
    if isinstance(answer, list):
        return [line for item in answer for line in ([f"{indent}- {item}"] if not isinstance(item, dict | list)
                                                     else [*_lines(item, indent), ""])]
    return [f"{indent}{answer}"]
