"""params.yaml: its schema, its loading and the profiles that write it."""

from pipeline.params.data import Data, DemoScenes, Views
from pipeline.params.loading import load_params, read_yaml, train_params
from pipeline.params.recipe import Recipe
from pipeline.params.schema import (
    Detector,
    Distill,
    Dump,
    Encodings,
    Ensemble,
    Evaluate,
    Params,
    Report,
    Student,
    Train,
    Tune,
)

__all__ = [
    "Data", "DemoScenes", "Detector", "Distill", "Dump", "Encodings", "Ensemble", "Evaluate", "Params",
    "Recipe", "Report", "Student", "Train", "Tune", "Views", "load_params", "read_yaml", "train_params",
]
