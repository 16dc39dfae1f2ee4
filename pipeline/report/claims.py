"""What differences between paired runs say: means with 95 % intervals, blocked by student.

d[s, k] is the difference between two recipes for student s and seed k, n_s the number of its pairs and S
the number of students. A claim is about the mean over students of their means,

    D = 1/S sum_s mean_k d[s, k]

Differences between students are blocked out: what remains is the variance within students, pooled,

    v = sum_s sum_k (d[s, k] - mean_k d[s, k])^2 / f,    f = sum_s (n_s - 1)

so that the interval is D +- t(f) sqrt(v sum_s 1/n_s) / S, with the two-sided quantile of Student's t at f
degrees of freedom. It is about these students and other seeds, not about other students, and it takes the
spread over seeds to be the same for all of them; so one student at most may have a single pair, whose spread is
taken from the others. One student's interval is the same formula at S = 1.

Runs that share their teachers share what another training of these would change: an interval is about the teachers
that its pairs have.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from scipy.stats import t as student_t

#: Share of intervals that cover the true mean.
CONFIDENCE = 0.95
Verdict = Literal["holds", "does not hold", "undecided", "too few pairs"]


@dataclass(frozen=True)
class Interval:
    """A mean difference in points, and how far it is known.

    Attributes:
        mean: over students of their means.
        half: half the interval's width; None where no student has two pairs, or several have only one.
        p: two-sided, of the mean being 0; None like `half`.
        pairs, students: how many there are of each.
    """

    mean: float
    half: float | None
    p: float | None
    pairs: int
    students: int

    @property
    def low(self) -> float | None:
        return None if self.half is None else self.mean - self.half

    @property
    def high(self) -> float | None:
        return None if self.half is None else self.mean + self.half

    @property
    def verdict(self) -> Verdict:
        """Of the claim that the difference is above 0: "undecided" while 0 lies in the interval, if there is one."""
        if self.half is None:
            return "too few pairs"
        if self.low is not None and self.low > 0:
            return "holds"
        if self.high is not None and self.high < 0:
            return "does not hold"
        return "undecided"


def interval(differences: Mapping[str, Sequence[float]]) -> Interval | None:
    """The mean difference over students with its interval.

    Args:
        differences: of each student, one per seed that has both runs, in points; students without any are
            left out.

    Returns:
        None where there is no pair at all.

    Reference: the analysis of variance of a randomised block design with fixed blocks; module docstring.
    """
    blocks = [list(pairs) for pairs in differences.values() if pairs]
    if not blocks:
        return None
    means = [fmean(pairs) for pairs in blocks]
    mean, freedom = fmean(means), sum(len(pairs) - 1 for pairs in blocks)
    half = p = None
    if freedom and sum(len(pairs) == 1 for pairs in blocks) <= 1:
        squares = sum((d - middle) ** 2 for pairs, middle in zip(blocks, means, strict=True) for d in pairs)
        error = math.sqrt(squares / freedom * sum(1 / len(pairs) for pairs in blocks)) / len(blocks)
        half = float(student_t.ppf((1 + CONFIDENCE) / 2, freedom)) * error
        p = float(2 * student_t.sf(abs(mean) / error, freedom)) if error else float(mean == 0)
    return Interval(mean=mean, half=half, p=p, pairs=sum(map(len, blocks)), students=len(blocks))


def recovered(taught: float | None, plain: float | None, teacher: float | None) -> float | None:
    """The share of the gap between a plain student and its teacher that teaching closes, in percent.

    None where a number is missing or there is no gap to close.
    """
    if taught is None or plain is None or teacher is None or teacher <= plain:
        return None
    return 100 * (taught - plain) / (teacher - plain)
