"""How much the teachers' terms count over a run."""


def share_of_weight(kind: str, share: float, progress: float) -> float:
    """What W is multiplied by.

    Args:
        kind: "constant" is 1 throughout; "warmup" grows from 0 to 1 over the first `share` of the run,
            "decay" shrinks from 1 to 0 over the last, both linearly.
        share: of the run, above 0 and up to 1.
        progress: share of the run that is done, 0 to 1.
    """
    if kind == "warmup":
        return min(1.0, progress / share)
    if kind == "decay":
        return min(1.0, (1.0 - progress) / share)
    return 1.0
