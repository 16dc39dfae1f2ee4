"""`pipeline store`: its commands; what they answer is in `pipeline.cli.store`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipeline.cli.options import as_json, path_or_url, print_answer, reads_params

if TYPE_CHECKING:
    from pipeline.params import Params


@click.group()
def store() -> None:
    """Look at a target store, check it, convert it."""


@store.command("info")
@click.argument("path", type=path_or_url)
@as_json
def store_info(path: Path | str, as_json: bool) -> None:
    """Say what the store at PATH, or at a URL, holds, in how many bytes and how exactly, and where it came from."""
    from pipeline.cli.store import info, info_lines

    print_answer(info(path), as_json, info_lines)


@store.command("verify")
@click.argument("path", type=path_or_url)
@click.option("--live", type=click.IntRange(min=1), metavar="N", help="Also compute N random views again, and compare.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Which views --live takes.")
@click.option("--params", "params_file", type=click.Path(path_type=Path), default="params.yaml", show_default=True,
              help="The params file, for --live.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
              help="Override a params key, for --live; may be repeated.")
@as_json
def store_verify(path: Path | str, live: int | None, seed: int, params_file: Path, overrides: tuple[str, ...],
                 as_json: bool) -> None:
    """Check every byte of the store at PATH, or at a URL, against its manifest; exit 1 where one is wrong."""
    from pipeline.cli.store import check, check_lines

    answer = check(path)
    if live and not answer["problems"]:
        from pipeline.params import load_params
        from stages import verify_live

        answer["live"] = verify_live.run(load_params(params_file, overrides), path, live, seed=seed)
    print_answer(answer, as_json, check_lines)
    if answer["problems"] or not answer.get("live", {"ok": True})["ok"]:
        raise SystemExit(1)


@store.command("show")
@click.argument("path", type=path_or_url)
@click.argument("view")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The picture to write, e.g. x.png.")
@as_json
@reads_params
def store_show(params: "Params", path: Path | str, view: str, out: Path, as_json: bool) -> None:
    """Draw VIEW (a row, or IMAGE_ID:NUMBER): ground truth, each teacher's heatmap and boxes, the ensemble's."""
    from stages import show_store

    answer = show_store.run(params, path, view, out)
    for note in answer.pop("notes"):
        click.echo(note, err=True)
    print_answer(answer, as_json)


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

    print_answer(convert(source, out, backend=backend, encodings=encodings, shard_views=shard_views), as_json)
