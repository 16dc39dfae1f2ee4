"""Data sets on disk, and views of their images.

What needs torch is imported from `pipeline.data.loading`.
"""

from pipeline.data.dataset import DataSet, ImageRecord, load_data
from pipeline.data.ground_truth import encode_targets, gaussian_radius
from pipeline.data.views import View, invert, plain_view, render_view, resolve_view, view_boxes

__all__ = [
    "DataSet", "ImageRecord", "View", "encode_targets", "gaussian_radius", "invert", "load_data",
    "plain_view", "render_view", "resolve_view", "view_boxes",
]
