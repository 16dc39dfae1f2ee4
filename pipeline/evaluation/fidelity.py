"""What a store's encodings cost: the loss, its gradient and the AP they give, against the teacher's exact outputs."""

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from pipeline.evaluation.metrics import TO_VOC, mean_percent
from pipeline.evaluation.voc import voc_ap
from pipeline.models import decode_detections, peaks_to_boxes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor, nn

    from pipeline.distillation import TeacherTargets
    from pipeline.outputs import DenseOutputs


class BoxFidelity:
    """Compares the boxes that a teacher says with those that its store gives, batch by batch.

    Args:
        classes: how many.
    """

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self._objects: list[NDArray[np.float64]] = []
        self._found: dict[str, list[NDArray[np.float64]]] = {}

    def add_maps(self, exact: "Tensor", stored: "Tensor", heatmap: "Tensor", wh_offset: "Tensor", stride: int,
                 objects: "Sequence[NDArray[np.float32] | None]") -> None:
        """Adds a batch to the AP of the peaks, and of boxes decoded from the stored maps without them.

        Args:
            exact, stored: (B, K, 7) peaks as of `find_peaks` that the teacher says and that the store has.
            heatmap: (B, C, h, w) probabilities, as they were stored.
            wh_offset: (B, 4, h, w) in cells, as they were stored.
            stride: pixels per cell.
            objects: as for `add_boxes`, in pixels.
        """
        width = heatmap.shape[-1]
        boxes = {"exact": peaks_to_boxes(exact, width), "stored": peaks_to_boxes(stored, width),
                 "maps": decode_detections(heatmap, wh_offset[:, :2], wh_offset[:, 2:], exact.shape[1])}
        scale = exact.new_tensor([stride] * 4 + [1, 1])
        self.add_boxes(objects, **{way: (found * scale).cpu().numpy() for way, found in boxes.items()})

    def add_boxes(self, objects: "Sequence[NDArray[np.float32] | None]", **found: "NDArray[np.float32]") -> None:
        """Adds a batch to the AP.

        Args:
            objects: per view (n, 6) x1, y1, x2, y2, class, difficult, in the boxes' units; None where nobody says
                what is in it, so that no box is right or wrong.
            found: "exact", "stored" and, if there are any, "maps": (B, k, 6) x1, y1, x2, y2, score, class; rows
                of score 0 are none.
        """
        first = len(self._objects)
        for number, truth in enumerate(objects, first):
            rows = np.empty((0, 6), np.float32) if truth is None else truth
            image = np.full(len(rows), number)
            self._objects.append(np.column_stack([image, rows[:, 4:6], rows[:, :4] + TO_VOC]))
        for way, boxes in found.items():
            for number, (rows, truth) in enumerate(zip(boxes, objects, strict=True), first):
                rows = rows[(rows[:, 4] > 0) & (truth is not None)]
                image = np.full(len(rows), number)
                table = np.column_stack([image, rows[:, 5], rows[:, 4], rows[:, :4] + TO_VOC])
                self._found.setdefault(way, []).append(table)

    def result(self) -> dict[str, float | None]:
        """What was found.

        Returns:
            {"ap_exact", "ap_stored", "ap_maps": VOC area AP in percent over the views, "ap_difference": between
            the first two, in points}; None where no object counts.
        """
        truth = np.concatenate(self._objects)
        ap = {way: mean_percent(voc_ap(np.concatenate(rows), truth, self.classes))
              for way, rows in self._found.items()}
        exact, stored = ap["exact"], ap["stored"]
        return {**{f"ap_{way}": value for way, value in ap.items()},
                "ap_difference": None if exact is None or stored is None else abs(stored - exact)}


class Fidelity(BoxFidelity):
    """Compares exact and stored targets of views, batch by batch: the loss and its gradient, and the boxes.

    Args:
        loss: (list of DenseOutputs, TeacherTargets) -> named scalars, as `DistillationLoss`.
        classes: how many.
    """

    def __init__(self, loss: "nn.Module", classes: int) -> None:
        super().__init__(classes)
        self.loss = loss
        self._losses = np.zeros(2)  # exact, stored
        self._products = np.zeros(3)  # exact·exact, exact·stored, stored·stored

    def add_targets(self, student: "DenseOutputs", exact: "TeacherTargets", stored: "TeacherTargets") -> None:
        """Adds a batch to the loss and to its gradient, which is taken at the student's outputs."""
        one, other = self._gradient(student, exact), self._gradient(student, stored)
        self._losses += one[0], other[0]
        self._products += float(one[1] @ one[1]), float(one[1] @ other[1]), float(other[1] @ other[1])

    def _gradient(self, student: "DenseOutputs", targets: "TeacherTargets") -> "tuple[float, Tensor]":
        with torch.inference_mode(False), torch.enable_grad():  # what was made in inference mode is copied out of it
            leaves = type(student)(*(part.float().clone().requires_grad_() for part in student))
            targets = targets._replace(heatmap=targets.heatmap.clone(), peaks=targets.peaks.clone(),
                                       features={name: part.clone() for name, part in targets.features.items()})
            total = torch.stack(list(self.loss([leaves], targets).values())).sum()
            gradients = torch.autograd.grad(total, leaves, allow_unused=True)
        # In double precision: a cosine near 1 is a difference of large numbers.
        flat = [gradient.flatten().double() for gradient in gradients if gradient is not None]
        return float(total.detach()), torch.cat(flat)

    def result(self) -> dict[str, float | None]:
        """What was found.

        Returns:
            {"loss_difference": share of the exact loss, "gradient_cosine": between both gradients} and the boxes' AP.
        """
        exact, stored = self._losses.tolist()
        aa, ab, bb = self._products.tolist()
        return {
            "loss_difference": abs(stored - exact) / exact if exact else float(stored != exact),
            "gradient_cosine": ab / math.sqrt(aa * bb) if aa and bb else float(aa == bb),
            **super().result(),
        }
