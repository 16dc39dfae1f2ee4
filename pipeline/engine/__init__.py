"""The one training loop, for teachers and students."""

from pipeline.engine.processes import mean_over_ranks, seed_everything
from pipeline.engine.trainee import FitSummary, Trainee
from pipeline.engine.training import fit

__all__ = ["FitSummary", "Trainee", "fit", "mean_over_ranks", "seed_everything"]
