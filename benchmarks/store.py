"""How fast, how small and how frugal is the target store?

Reading, writing and files need nothing; with VOC=<any VOC folder> a teacher is fitted to it at 512 px first
(once: it is kept in ~/.cache/centernet-distill), and what a dump of a real teacher takes is measured too.

    make bench-store                      reading and writing on maps that are made up
    make bench-store VOC=/path/to/VOC     everything; the fit takes up to an hour on two cores

Reads are random batches of 16 whole head records from a warm page cache, contenders taking turns in one process.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

import numpy as np
from common import Row, record
from profiling import read_profile
from reading import (
    HALF,
    SPARSE,
    Contender,
    H5py,
    LitData,
    Memmap,
    Ours,
    Values,
    ZarrPython,
    codes_of,
    encoded,
    installed,
    synthetic,
    write_ours,
    write_zarr,
)

from storage import ArraySpec, StoreSpec, create_store

BATCH, ROUNDS, BATCHES = 16, 15, 12
#: Cells of a side: (views, share of the memmap's speed, of its bytes, in a loader, times zarr-python).
TARGETS = {128: (640, ">= 0.60", "<= 0.36", ">= 1.0", ">= 6"), 32: (6400, ">= 0.14", "<= 0.38", ">= 0.45", ">= 40")}


def main() -> None:
    rows: list[Row] = []
    voc = os.environ.get("VOC")
    with tempfile.TemporaryDirectory(prefix="bench-store-") as name:
        folder = Path(name)
        for side in TARGETS:
            rows += measure(folder / f"{side}", f"{side}x{side}", synthetic(side, 48), side)
        rows += writing(folder / "writing")
        rows += files(folder / "files")
        if voc:
            from dumping import real_maps, real_rows

            rows += real_rows(Path(voc), folder / "dump")
            maps = real_maps(Path(voc), folder / "dump")
            rows += measure(folder / "real", "128x128, a fitted teacher's maps", maps, maps["heatmap"].shape[-1])
        else:
            print("Skipped: rows of a fitted teacher. Name a VOC folder: make bench-store VOC=/path", file=sys.stderr)
    record("store" if voc else "store-synthetic", rows, voc=bool(voc), batch=BATCH)


def measure(folder: Path, name: str, values: Values, side: int) -> list[Row]:
    """Reading of the same views by everybody."""
    print(f"reading {name}", file=sys.stderr, flush=True)
    folder.mkdir()
    views, speed, share, loader, times = TARGETS[side]
    memmap = Memmap(folder / "memmap", values, views)
    _, spec = codes_of(values, HALF)
    _, sparse = codes_of(values, SPARSE)
    codes = encoded(spec(views), values)
    ours = Ours(folder / "u8.zarr", codes, spec(views))
    default = Ours(folder / "sparse.zarr", encoded(sparse(views), values), sparse(views))
    slow: dict[str, Contender] = {"zarr-python": ZarrPython(folder / "u8.zarr"),
                                  "h5py": H5py(folder / "one.h5", codes, spec(views))}
    if installed("zarrs"):
        slow["zarrs"] = ZarrPython(folder / "u8.zarr", "zarrs.ZarrsCodecPipeline")
    if installed("litdata"):
        slow["litdata"] = LitData(folder / "litdata", codes, spec(views))
    taken = alternate({"memmap": memmap, "u8": ours, "sparse": default}, views, BATCHES)
    once = alternate({"memmap": memmap, "u8": ours, **slow}, views, 2)
    rows = [
        ratio(f"{name}: u8 lz4+bitshuffle, share of the memmap's speed", taken, "memmap", "u8", speed),
        Row(f"{name}: u8 lz4+bitshuffle, share of the memmap's bytes", ours.nbytes / memmap.nbytes, share),
        ratio(f"{name}: sparse (the default), share of the memmap's speed", taken, "memmap", "sparse"),
        Row(f"{name}: sparse (the default), share of the memmap's bytes", default.nbytes / memmap.nbytes),
        Row(f"{name}: memmap, ms per batch", median(taken["memmap"]) * 1e3),
        *read_profile(name, ours, np.random.default_rng(0).integers(0, views, 400).tolist()),
        ratio(f"{name}: u8, times zarr-python one view at a time", once, "zarr-python", "u8", times),
    ]
    rows += [ratio(f"{name}: {other}, share of the memmap's speed", once, "memmap", other) for other in slow]
    both = loaders({"memmap": memmap, "u8": ours, "sparse": default}, views)
    rows += [ratio(f"{name}: u8, loader of 2 workers against a memmap's", both, "memmap", "u8", loader),
             ratio(f"{name}: sparse, loader of 2 workers against a memmap's", both, "memmap", "sparse")]
    shutil.rmtree(folder)
    return rows


def alternate(contenders: Mapping[str, Contender], views: int, batches: int) -> dict[str, list[float]]:
    """Seconds per batch of each, taking turns on the same random rows."""
    rng = np.random.default_rng(1)
    taken: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(ROUNDS + 1):
        some = [rng.integers(0, views, BATCH) for _ in range(batches)]
        for name, contender in contenders.items():
            start = perf_counter()
            for rows in some:
                contender.read(rows)
            if turn:  # the first one warms up
                taken[name].append((perf_counter() - start) / batches)
    return taken


class Batches:
    """A data set of batches, as a loader's workers are asked for them."""

    def __init__(self, contender: Contender, views: int, count: int) -> None:
        self.contender, self.views, self.count = contender, views, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> object:
        import torch

        rows = np.random.default_rng(number).integers(0, self.views, BATCH)
        found = self.contender.read(rows)
        return [torch.from_numpy(part) for part in (found if isinstance(found, list) else [found])]


def loaders(contenders: Mapping[str, Contender], views: int) -> dict[str, list[float]]:
    """Seconds per batch through a DataLoader with two workers, taking turns."""
    from torch.utils.data import DataLoader

    count = 150
    made = {name: DataLoader(Batches(contender, views, count), batch_size=None, num_workers=2,  # type: ignore[arg-type]
                             persistent_workers=True, multiprocessing_context="fork")
            for name, contender in contenders.items()}
    taken: dict[str, list[float]] = {name: [] for name in made}
    for turn in range(6):
        for name, loader in made.items():
            start = perf_counter()
            for _ in loader:
                pass
            if turn:
                taken[name].append((perf_counter() - start) / count)
    return taken


def writing(folder: Path) -> list[Row]:
    """Whole shards of encoded views onto the disk, against zarr-python."""
    folder.mkdir()
    rows = []
    for side, views in ((128, 256), (32, 4096)):
        print(f"writing {side}x{side}", file=sys.stderr, flush=True)
        values = synthetic(side, 48)
        _, spec = codes_of(values, HALF)
        codes = encoded(spec(views), values)
        writers: dict[str, Callable[..., None]] = {"ours": write_ours, "zarr-python": write_zarr}
        taken: dict[str, list[float]] = {name: [] for name in writers}
        for turn in range(6):
            for name, write in writers.items():
                os.sync()
                start = perf_counter()
                write(folder / name, codes, spec(views))
                if turn:
                    taken[name].append(perf_counter() - start)
                shutil.rmtree(folder / name)
        rows.append(ratio(f"{side}x{side}: writing shards with fsync, times zarr-python", taken, "zarr-python", "ours",
                          ">= 2"))
    return rows


def files(folder: Path) -> list[Row]:
    """What VOC07+12 leaves on the disk with 4 views an image and two teachers; one value per view will do."""
    print("files", file=sys.stderr, flush=True)
    views = 16_551 * 4
    arrays = {"views": ("record", "matrix", "color", "boxes"), "one": ("heatmap", "wh_offset", "peaks", "features"),
              "two": ("heatmap", "wh_offset", "peaks", "features"), "ensemble": ("heatmap", "wh_offset", "peaks")}
    value = np.zeros(1, np.uint8)
    for store, names in arrays.items():
        spec = StoreSpec(tuple(ArraySpec(name, (1,), "uint8") for name in names), views, 512, {"kind": "benchmark"})
        writer = create_store(folder / store, spec)
        for shard in writer.pending():
            claim = writer.claim(shard)
            assert claim is not None
            with claim:
                for _ in claim.views:
                    claim.append(dict.fromkeys(names, value))
        writer.finish()
    count = sum(1 for path in folder.rglob("*") if path.is_file())
    return [Row("files for VOC07+12, 4 views, 2 teachers and their ensemble", count, "<= 2500")]


def ratio(name: str, taken: Mapping[str, list[float]], over: str, under: str, target: str | None = None) -> Row:
    """Row of seconds of `over` by seconds of `under`, turn by turn."""
    values = [one / other for one, other in zip(taken[over], taken[under], strict=True)]
    first, _, third = quantiles(values, n=4)
    return Row(name, median(values), target, (third - first) / 2, len(values))


if __name__ == "__main__":
    main()
