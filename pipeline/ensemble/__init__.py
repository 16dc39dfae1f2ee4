"""Several teachers merged into one: heatmaps by a rule, boxes matched and fused.

Import the module that is meant: `merging` (one view), `weighting` (the rules) or `building` (the stores). A dump
with test-time augmentation merges its passes, and is not to be made again when a rule changes.
"""
