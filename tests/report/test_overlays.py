import io

import numpy as np

from pipeline.report.drawing import LIGHT
from pipeline.report.overlays import Box, Heat, draw_panels


def test_the_name_of_a_class_is_text_and_no_formula():
    box = Box(np.array([2.0, 2, 12, 12]), 0, 0.9)
    figure = draw_panels(LIGHT, np.zeros((16, 16, 3), np.uint8), [("seen", [box])], ["$5_$6"])
    figure.savefig(io.BytesIO())


def test_the_best_of_boxes_in_one_place_is_on_top():
    boxes = [Box(np.array([2.0, 2, 12, 12]), label, score) for label, score in ((1, 0.9), (0, 0.5), (1, 0.2))]
    image = np.zeros((16, 16, 3), np.uint8)
    for content in (boxes, Heat(np.zeros((2, 4, 4)), (0, 16, 16, 0), boxes)):
        [axis] = draw_panels(LIGHT, image, [("seen", content)], ["cat", "dog"]).axes
        assert [text.get_text() for text in axis.texts] == ["dog 0.20", "cat 0.50", "dog 0.90"]
