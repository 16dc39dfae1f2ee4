"""params.yaml: its schema, its loading and the profiles that write it."""

from pipeline.params.data import Data, DemoScenes, Views
from pipeline.params.detectors import Detector, Student
from pipeline.params.loading import changed, load_params, read_yaml, train_params, varied
from pipeline.params.recipe import Recipe
from pipeline.params.schema import (
    Augmentation,
    Distill,
    Dump,
    Encodings,
    Ensemble,
    Evaluate,
    Params,
    Report,
    Screening,
    Train,
)

__all__ = [
    "Augmentation", "Data", "DemoScenes", "Detector", "Distill", "Dump", "Encodings", "Ensemble", "Evaluate", "Params",
    "Recipe", "Report", "Screening", "Student", "Train", "Views", "changed", "load_params", "read_yaml", "train_params",
    "varied",
]
