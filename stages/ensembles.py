"""What `pipeline build-ensemble` runs: the evaluation of teachers that are weighed by it, then the ensembles."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from stages import build_ensemble, evaluate_teacher, inputs, work

if TYPE_CHECKING:
    from pipeline.params import Params


def run(params: "Params", keys: Sequence[str], *, restart: bool = False) -> dict[str, Any]:
    """Builds each of `keys`, or all ensembles; every key is checked before any work."""
    if not params.ensembles:
        work.say("build-ensemble: params.yaml has no ensembles")
    ensembles = {key: inputs.named(params.ensembles, key, "ensemble") for key in keys or params.ensembles}
    weighed = [ensemble for ensemble in ensembles.values() if ensemble.heatmap == build_ensemble.BY_AP]
    for teacher in dict.fromkeys(teacher for ensemble in weighed for teacher in ensemble.teachers):
        evaluate_teacher.run(params, teacher)
    return {key: build_ensemble.run(params, key, restart=restart) for key in ensembles}
