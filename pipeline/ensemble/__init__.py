"""Several teachers' stores merged into one: mean heatmaps, fused boxes."""

from pipeline.ensemble.building import build_ensemble
from pipeline.ensemble.merging import Merged, merge_view

__all__ = ["Merged", "build_ensemble", "merge_view"]
