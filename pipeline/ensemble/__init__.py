"""Several teachers' stores merged into one: heatmaps by a rule, boxes matched and fused.

Stores are merged by `pipeline.ensemble.building`: whoever merges views in memory runs no store.
"""

from pipeline.ensemble.merging import Merged, merge_view
from pipeline.ensemble.weighting import class_weights, rule_of

__all__ = ["Merged", "class_weights", "merge_view", "rule_of"]
