"""Batches for training: which images each step sees, and views of them drawn afresh."""

import signal
import traceback
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset

from pipeline.data.ground_truth import encode_targets
from pipeline.data.views import Image, render_view, resolve_view, view_boxes
from pipeline.errors import UserError

if TYPE_CHECKING:
    from pipeline.data.dataset import ImageRecord
    from pipeline.params import Views

Arrays = dict[str, npt.NDArray[Any]]
Tensors = dict[str, torch.Tensor]


class Source(Protocol):
    """Something that makes a batch of any of its items; a pure function of them, and picklable."""

    def __len__(self) -> int: ...

    def fetch(self, items: Sequence[tuple[int, int]]) -> Arrays:
        """The collated batch of (index, epoch) items."""
        ...


class Batches:
    """The batches of a whole run, by step.

    Each epoch is a permutation of the source, cut into global batches; an incomplete last one is
    left out. What a step holds depends on the seed and the step alone, so a run goes on anywhere.

    Args:
        source: makes the batches.
        batch: items per step, over all processes.
        epochs: length of the run; need not be whole. 0 is no step, anything above it at least one.
        seed: of the permutations.
        workers: loader processes; 0 loads in this one.
        rank, world: this process takes items rank::world of each global batch.

    Raises:
        UserError: there is no item, or the processes cannot share a batch evenly.
    """

    def __init__(
        self, source: Source, *, batch: int, epochs: float, seed: int,
        workers: int = 0, rank: int = 0, world: int = 1,
    ) -> None:
        if batch % world:
            raise UserError(f"train.batch is {batch}: expected a multiple of the {world} processes. Change it, or take "
                            "fewer: --devices N, or with fewer GPUs in CUDA_VISIBLE_DEVICES (dvc repro).")
        self.source, self.workers = source, workers
        self.batch = min(batch, len(source) // world * world)
        if not self.batch:
            raise UserError(f"There are {len(source)} images to train on, fewer than the {world} processes.")
        self.steps_per_epoch = len(source) // self.batch
        self.steps = max(1, round(epochs * self.steps_per_epoch)) if epochs else 0
        self._seed, self._rank, self._world = seed, rank, world
        self._shuffled: tuple[int, npt.NDArray[np.int64]] = (-1, np.empty(0, np.int64))

    def items(self, step: int) -> list[tuple[int, int]]:
        """The (index, epoch) items of this process at a global step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if self._shuffled[0] != epoch:
            generator = np.random.default_rng([self._seed, epoch])
            self._shuffled = epoch, generator.permutation(len(self.source))
        chosen = self._shuffled[1][place * self.batch : (place + 1) * self.batch]
        return [(index, epoch) for index in chosen[self._rank :: self._world].tolist()]

    def iterate(self, start: int = 0) -> Iterator[Tensors]:
        """The batches from global step `start` to the end of the run."""
        loader = DataLoader(
            _Steps(self), batch_size=None, sampler=range(start, self.steps), num_workers=self.workers,
            worker_init_fn=_init_worker, pin_memory=torch.cuda.is_available())
        try:
            for batch in loader:
                if isinstance(batch, Exception):
                    raise batch
                yield batch
        except BaseException as error:
            # Its frames would keep the workers until the program ends, and it waits for them: they ignore its SIGTERM.
            traceback.clear_frames(error.__traceback__)
            if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
                said = str(error).partition("\n")[0].strip()
                raise UserError(f"a loader process ended ({said}); lower train.workers, or give more memory, /dev/shm "
                                "too (a container's may be 64 MB).") from None
            raise


class _Steps(Dataset[Tensors | Exception]):
    """A step as an item of a DataLoader; one pass is the whole run, so its workers persist.

    Errors that a person can fix come back whole: torch would put a worker's traceback into the message.
    """

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __getitem__(self, step: int) -> Tensors | Exception:
        try:
            arrays = self.batches.source.fetch(self.batches.items(step))
        except (ValueError, OSError) as error:  # what a person can fix is among them
            error.add_note(traceback.format_exc())  # for the rest, which loses it on the way from a worker
            return error
        except MemoryError as error:
            return MemoryError(str(error))  # numpy's own can't be made again from what a worker sends
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


def _init_worker(_: int) -> None:
    torch.set_num_threads(1)
    # Ctrl-C and a scheduler's SIGTERM reach all processes; the main one needs batches until it has its checkpoint.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


class ImageCache:
    """Decoded images, kept until they fill `limit_mb`; a pickled cache starts empty.

    Epochs visit each image once, so dropping old images for new ones would gain nothing.
    """

    def __init__(self, limit_mb: float) -> None:
        self.limit_mb = limit_mb
        self._free = limit_mb * 2**20
        self._images: dict[str, Image] = {}

    def __reduce__(self) -> tuple[type["ImageCache"], tuple[float]]:
        return ImageCache, (self.limit_mb,)

    def read(self, record: "ImageRecord") -> Image:
        """The (H, W, 3) uint8 RGB image of a record."""
        image = self._images.get(record.id)
        if image is None:
            image = record.read()
            if image.nbytes <= self._free:
                self._images[record.id] = image
                self._free -= image.nbytes
        return image


def collate_views(
    images: Sequence[Image],
    boxes: Sequence[npt.NDArray[np.float32]],
    labels: Sequence[npt.NDArray[np.int64]],
    *,
    num_classes: int,
    stride: int,
    max_objects: int,
) -> Arrays:
    """A batch of rendered views with CenterNet's targets for their boxes.

    Args:
        images: (H, W, 3) uint8 RGB each.
        boxes: (n, 4) float32 xyxy in input pixels each.
        labels: (n,) int64 each.
        num_classes: planes C of the heatmap.
        stride: input pixels per cell.
        max_objects: rows M.

    Returns:
        image (B, 3, H, W) uint8, heatmap (B, C, h, w), wh and offset (B, M, 2), indices (B, M)
        int64 and mask (B, M), float32 where not said.
    """
    height, width = images[0].shape[:2]
    grid = height // stride, width // stride
    targets = [encode_targets(edges / stride, classes, num_classes, grid, max_objects)
               for edges, classes in zip(boxes, labels, strict=True)]
    batch = {name: np.stack([target[name] for target in targets]) for name in targets[0]}
    batch["image"] = np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2))
    return batch


class FreshViews:
    """Images of a split as views that are drawn afresh for each (seed, epoch, image).

    Args:
        records: the split; of labelled images.
        num_classes: planes of the heatmap.
        views: how views are drawn.
        stride: input pixels per cell.
        seed: of the draws.
        cache_mb: memory for decoded images.
    """

    def __init__(
        self, records: Sequence["ImageRecord"], num_classes: int, views: "Views", *,
        stride: int = 4, seed: int = 0, cache_mb: float = 1024,
    ) -> None:
        assert all(record.labelled for record in records), "an image without labels is no image without objects"
        self.records, self.num_classes, self.views = records, num_classes, views
        self.stride, self.seed = stride, seed
        self.images = ImageCache(cache_mb)

    def __len__(self) -> int:
        return len(self.records)

    def fetch(self, items: Sequence[tuple[int, int]]) -> Arrays:
        """The arrays of `collate_views`, and view (B,) int64: the image's row in the split."""
        images, boxes, labels = [], [], []
        for index, epoch in items:
            record, size = self.records[index], self.views.size
            number = epoch + 1  # number 0 is the plain view
            # The 1 keeps these draws apart from the recorded ones, which teachers are asked about.
            generator = np.random.default_rng([self.seed, index, number, 1])
            view = resolve_view(record, index, number, self.views, generator)
            images.append(render_view(self.images.read(record), view, size))
            seen, kept = view_boxes(record, view, size)
            boxes.append(seen[kept])
            labels.append(record.labels[kept])
        batch = collate_views(images, boxes, labels, num_classes=self.num_classes, stride=self.stride,
                              max_objects=self.views.max_objects)
        batch["view"] = np.array([index for index, _ in items], np.int64)
        return batch
