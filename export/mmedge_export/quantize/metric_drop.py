"""What samples say about a drop of a metric, with statistical care.

A candidate network may replace a reference only while a metric does not fall by more than a limit.
Both networks answer the same samples, so the drop is known only up to the luck of the samples. What
is compared with the limit is an upper confidence bound, which stays above the true drop with the
probability asked for, and which is above zero even where no sample changed.

The bound is that of N. Gaffke (2004), see E. Learned-Miller and P. Thomas, "A New Confidence
Interval for the Mean of a Bounded Random Variable" (2019). The n paired drops of the scores, and
one more that is the worst possible, get weights that are uniform on the simplex; the bound is a
quantile of their weighted mean. For drops of two values it is exactly the Clopper-Pearson
bound, which is the rule of three where nothing changed. That it holds for every bounded
distribution is a conjecture without a known counterexample.

Where a metric is no mean of scores, jackknife pseudo-values (J. Tukey, 1958) stand in for them, and
the bound is no less than a Student bound with the spread that the drop has over random halves of
the samples. The variance over halves is that over samples (J. Shao and C. Wu, "A General Theory for
Jackknife Variance Estimation", 1989), also for medians, and a half holds no sample twice, which
would spoil a metric over a pool.

It is long, since the bound, its approximation and their error are one derivation.
"""

from __future__ import annotations

import math
import time
import warnings
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from mmedge.bench.stats.student import student_t
from mmedge.errors import ExportError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mmedge.spec import Array
    from mmedge_export.model import Metric

    Floats = NDArray[np.float64]

__all__ = ["Drop", "Spending", "drop_of"]

#: Of the two-sided interval that reports show, whatever level the gate asks for.
CONFIDENCE = 0.95

_NORMAL = NormalDist()

#: Relative difference above which two values of a metric count as different: float32 sums differ
#: by less, and so do threads that add in another order.
_SAME = 1e-6

#: Samples left out one at a time, and halves drawn, at the least, however slow the metric is.
_LEAST = 50

#: Samples that a metric needs that is no mean of scores.
_LEAST_SAMPLES = 10


@dataclass(frozen=True, slots=True)
class Drop:
    """How far a metric falls from a reference to a candidate, in units of the metric.

    ``drop`` is ``metric(reference) - metric(candidate)`` on all samples. ``low`` and ``high`` are
    a two-sided 95 % interval for reports. ``bound`` is the one-sided upper confidence bound at
    ``level``, which is ``1 - alpha``. ``changed`` counts the samples whose scores differ; where the
    metric is no mean of scores, those whose outputs differ at all.
    """

    drop: float
    low: float
    high: float
    bound: float
    level: float
    samples: int
    changed: int


@dataclass(frozen=True, slots=True)
class Spending:
    """Shares of a total error probability for repeated looks at the same samples.

    Attempt i, from 1 on, gets ``total / (i * (i + 1))``. These sum to no more than ``total`` over
    any number of attempts, so the chance that any of them errs is at most ``total`` (union bound).
    """

    total: float = 0.05

    def alpha(self, attempt: int) -> float:
        """Error probability that attempt ``attempt``, counted from 1, may take.

        Raises:
            ValueError: ``attempt`` is less than 1.
        """
        if attempt < 1:
            raise ValueError(f"attempts count from 1, got {attempt}")
        return self.total / (attempt * (attempt + 1))


def drop_of(
    metric: Metric,
    reference: Sequence[dict[str, Array]],
    candidate: Sequence[dict[str, Array]],
    targets: Sequence[Any],
    *,
    alpha: float = 0.05,
    resamples: int = 2000,
    seed: int = 0,
    seconds: float = 20.0,
) -> Drop:
    """The drop of ``metric`` from ``reference`` to ``candidate``, with an upper confidence bound.

    Samples must be independent draws of what the network will meet; element i of the three lists
    belongs to sample i. The bound fails to cover the true drop with a probability of at most
    ``alpha``, between 0 and 0.5. The worst that one sample can do is taken from the range of the
    scores seen, with 0 in it; where rare samples are far worse than all seen (tails heavier than
    a log-normal with sigma 1), the bound fails more often.

    A metric that is the mean of scores of single samples is recognised: it is called on each sample
    once for each network. Any other metric is called on up to ``resamples`` random halves of the
    samples, and without each of them; these calls are limited to about ``seconds``. The result is
    the same for the same ``seed`` as long as that limit is not met.

    Raises:
        ExportError: lists are empty or of different lengths, or the metric is not a finite number,
            not the same twice on the same data, or undefined on parts of the samples.
        ValueError: ``alpha`` is not between 0 and 0.5.
    """
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha must be between 0 and 0.5, got {alpha}")
    pair = _Pair(metric, list(reference), list(candidate), list(targets))
    samples = len(pair.targets)
    whole = np.array([pair.whole(0), pair.whole(1)])
    drop = float(whole[0] - whole[1])
    rng = np.random.default_rng(seed)
    scores = _scores(pair, whole, rng)
    spread, freedom = 0.0, 1
    if scores is not None:
        changed_samples = int(np.count_nonzero(scores[0] != scores[1]))
        worst = _range(scores)
    else:
        if samples < _LEAST_SAMPLES:
            raise ExportError(
                f"the metric is no mean of scores of single samples, so {_LEAST_SAMPLES} samples "
                f"or more are needed to say anything about it, got {samples}"
            )
        changed_samples = sum(map(_differ, pair.answers[0], pair.answers[1]))
        scores = _pseudo_scores(pair, whole, rng, seconds / 2)
        worst = _range(scores)
        if np.ptp(scores) <= _SAME * worst:
            worst = max(worst, _swapped(pair, whole, rng))
        spread, freedom = _spread(pair, rng, resamples, seconds / 2)
    drops = scores[0] - scores[1]
    # Pseudo-values have a mean of their own, and a subset of them as well.
    drops += drop - drops.mean()
    apart = float(drops.std(ddof=1)) if samples > 1 else 0.0
    if spread > 0 and apart > 0:
        # They show the shape; of a median, for one, they do not show the spread.
        drops = drop + (drops - drop) * (spread * math.sqrt(samples) / apart)
    each = samples / len(drops)

    def upper(values: Floats, centre: float, chance: float) -> float:
        half = spread * student_t(1 - chance, freedom)
        return max(_gaffke(values, each, worst, chance), centre + half)

    tail = (1 - CONFIDENCE) / 2
    return Drop(
        drop=drop,
        low=-upper(-drops, -drop, tail),
        high=upper(drops, drop, tail),
        bound=upper(drops, drop, alpha),
        level=1 - alpha,
        samples=samples,
        changed=changed_samples,
    )


class _Pair:
    """Outputs of two networks, 0 the reference and 1 the candidate, and the metric on parts."""

    def __init__(
        self,
        metric: Metric,
        reference: list[dict[str, Array]],
        candidate: list[dict[str, Array]],
        targets: list[Any],
    ) -> None:
        counts = len(reference), len(candidate), len(targets)
        if min(counts) != max(counts):
            raise ExportError(
                f"expected one output of each network and one target for every sample, got "
                f"{counts[0]} outputs of the reference, {counts[1]} of the candidate and "
                f"{counts[2]} targets"
            )
        if not targets:
            raise ExportError("there are no samples to judge a drop on; give some")
        self.metric = metric
        self.answers = (reference, candidate)
        self.targets = targets

    def whole(self, network: int) -> float:
        """The metric on all samples, which must be finite and the same twice."""
        name = ("reference", "candidate")[network]
        values = [
            float(self.metric(list(self.answers[network]), list(self.targets))) for _ in range(2)
        ]
        if not all(math.isfinite(value) for value in values):
            raise ExportError(
                f"the metric of the {name} is {values[0]:g} on all {len(self.targets)} samples; "
                "it must be a finite number"
            )
        if not math.isclose(*values, rel_tol=_SAME, abs_tol=1e-9):
            raise ExportError(
                f"the metric must be deterministic, but on the same outputs of the {name} it was "
                f"{values[0]:.9g} and then {values[1]:.9g}; seed or remove what is random in it"
            )
        return values[0]

    def part(
        self,
        network: int,
        indices: NDArray[np.int64],
        target_indices: NDArray[np.int64] | None = None,
    ) -> float:
        """The metric on chosen samples, or with their answers to others; NaN where undefined."""
        answers = [self.answers[network][i] for i in indices]
        targets = [self.targets[i] for i in (indices if target_indices is None else target_indices)]
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                return float(self.metric(answers, targets))
        except Exception:  # noqa: BLE001 - many metrics refuse a single sample, each in its way
            return math.nan


def _scores(pair: _Pair, whole: Floats, rng: np.random.Generator) -> Floats | None:
    """Scores of single samples, (2, n) float64, if the metric is their mean, else None."""
    samples = len(pair.targets)
    # A few samples tell most other metrics from a mean before all are scored one by one.
    few = rng.permutation(samples)[: min(16, (samples + 1) // 2)]
    for indices, values in (
        (few, [pair.part(network, few) for network in range(2)]),
        (np.arange(samples), whole),
    ):
        scores = np.array(
            [[pair.part(network, i) for i in indices[:, None]] for network in range(2)]
        )
        if not np.all(np.isfinite(scores)) or not np.all(np.isfinite(values)):
            return None
        size = np.abs(scores).mean(axis=1)
        if not np.all(np.abs(scores.mean(axis=1) - values) <= _SAME * size):
            return None
    return scores


def _range(scores: Floats) -> float:
    """The worst drop of one sample: the range of the scores seen, with 0 in it.

    Scores of zero are what a failed sample mostly gets, whether or not one was seen.
    """
    return float(max(scores.max(), 0.0) - min(scores.min(), 0.0)) or 1.0


def _pseudo_scores(pair: _Pair, whole: Floats, rng: np.random.Generator, seconds: float) -> Floats:
    """What each sample adds to the metric, (2, m) float64: jackknife pseudo-values.

    Where the metric is slow the m samples are a random subset.
    """
    samples = len(pair.targets)
    deadline = time.monotonic() + seconds
    rows: list[list[float]] = []
    for left_out in rng.permutation(samples):
        if len(rows) >= _LEAST and time.monotonic() > deadline:
            break
        rest = np.delete(np.arange(samples), left_out)
        rows.append([pair.part(network, rest) for network in range(2)])
    without = _defined(np.array(rows), "all samples but one").T
    return np.asarray(samples * whole[:, None] - (samples - 1) * without)


def _swapped(pair: _Pair, whole: Floats, rng: np.random.Generator) -> float:
    """The worst drop of one sample where no sample seen differs, as with a perfect metric.

    It is taken from failures made up: a sample gets the reference's answer to another sample.
    """
    samples = len(pair.targets)
    worst = 0.0
    for indices in rng.permutation(samples)[:_LEAST]:
        other = (indices + rng.integers(1, samples)) % samples
        order = np.arange(samples)
        order[indices] = other
        value = pair.part(0, order, np.arange(samples))
        if math.isfinite(value):
            worst = max(worst, samples * abs(float(whole[0]) - value))
    return worst


def _spread(
    pair: _Pair, rng: np.random.Generator, resamples: int, seconds: float
) -> tuple[float, int]:
    """Standard error of the drop, from random halves of the samples, and its degrees of freedom."""
    samples = len(pair.targets)
    deadline = time.monotonic() + seconds
    rows: list[list[float]] = []
    while len(rows) < max(resamples, _LEAST):
        if len(rows) >= _LEAST and time.monotonic() > deadline:
            break
        half = rng.permutation(samples)[: samples // 2]
        rows.append([pair.part(network, half) for network in range(2)])
    values = _defined(np.array(rows), "half of the samples")
    drops = values[:, 0] - values[:, 1]
    return float(drops.std(ddof=1)), min(samples, len(drops)) - 1


def _defined(rows: Floats, what: str) -> Floats:
    """The rows where the metric is a finite number for both networks.

    Raises:
        ExportError: more than a tenth are not.
    """
    finite_scores = rows[np.isfinite(rows).all(axis=1)]
    if len(finite_scores) < 0.9 * len(rows):
        raise ExportError(
            f"the metric is undefined on {what} in {len(rows) - len(finite_scores)} of {len(rows)} "
            "random choices (it raises or is not finite), so its spread cannot be known; give more "
            "samples"
        )
    return finite_scores


def _differ(before: dict[str, Array], after: dict[str, Array]) -> bool:
    return before.keys() != after.keys() or not all(
        np.array_equal(value, after[name]) for name, value in before.items()
    )


def _gaffke(drops: Floats, each: float, worst: float, alpha: float) -> float:
    """Upper confidence bound at ``1 - alpha`` for the mean of ``drops``.

    Each of them stands for ``each`` samples; no sample drops more than ``worst``. With exponential
    weights g the bound u solves ``P(sum(g * (values - u)) >= 0) = alpha``, where the values are the
    drops and ``worst``. The probability is the saddlepoint approximation of R. Lugannani and S.
    Rice (1980), within 2 % here. The saddle point t is sought along ``s = t / (1 + t * u)``, for
    which u has a closed form.
    """
    distinct, counts = np.unique(drops, return_counts=True)
    size = len(drops) * each + 1
    weights = np.append(counts * each, 1.0) / size
    values = np.append(distinct, max(worst, float(distinct[-1])))
    centre = float(weights @ values)
    values -= centre
    # Without its rounding error nothing is left of a spread as small as this.
    if values[-1] <= 1e-12 * max(abs(centre), worst):
        return centre
    low, high, bound = 0.0, 1.0 / float(values[-1]), 0.0
    for _ in range(45):
        middle = (low + high) / 2
        inverse = 1 / (1 - middle * values)
        scale = float(weights @ inverse)
        bound = (scale - 1) / (middle * scale)
        factors = scale / inverse  # 1 - t * (values - u)
        root = math.sqrt(max(2 * size * float(weights @ np.log(factors)), 0.0))
        curve = math.sqrt(size * float(weights @ ((1 - factors) / factors) ** 2))
        if root < 1e-4 or _tail(root, curve) > alpha:
            low = middle
        else:
            high = middle
    return centre + bound


def _tail(root: float, curve: float) -> float:
    return 1 - _NORMAL.cdf(root) + _NORMAL.pdf(root) * (1 / curve - 1 / root)
