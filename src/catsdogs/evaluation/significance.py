"""How sure is a figure that was measured on so many pictures? Standard library only."""

import math
import statistics

__all__ = ["adjust_p_values", "mcnemar_test", "summarize_seeds", "wilson_interval"]


def wilson_interval(successes, total, confidence=0.95):
    """Confidence interval of a proportion, by Wilson's score.

    Near 100 % the usual p ± 1.96 s reaches past 1 and covers too rarely; this one does neither.

    Args:
        successes: Number of successes in [0, `total`]; may be fractional (a mean over seeds).
        total: Number of trials, at least 1.
        confidence: Coverage, in (0, 1).

    Returns:
        `(low, high)`, floats in [0, 1].

    Raises:
        ValueError: If an argument is out of its range.

    Reference:
        Wilson, [Probable inference, the law of succession, and statistical
        inference](https://doi.org/10.1080/01621459.1927.10502953), 1927.
    """
    if not (total >= 1 and 0 <= successes <= total and 0 < confidence < 1):
        raise ValueError(
            "Expected 0 <= successes <= total, total >= 1 and 0 < confidence < 1. "
            f"Received: successes={successes}, total={total}, confidence={confidence}"
        )
    z = statistics.NormalDist().inv_cdf((1 + confidence) / 2)
    rate = successes / total
    centre = rate + z * z / (2 * total)
    margin = z * math.sqrt(rate * (1 - rate) / total + (z / (2 * total)) ** 2)
    scale = 1 + z * z / total
    low, high = (centre - margin) / scale, (centre + margin) / scale
    # The interval holds the rate; rounding alone would miss an exact 0 or 1 by 1e-17.
    return max(0.0, min(low, rate)), min(1.0, max(high, rate))


def summarize_seeds(values, num_images):
    """Mean accuracy of several seeds, with what it is uncertain by.

    All seeds are tested on the same images, so more seeds do not make the test set larger: the
    interval is Wilson's for the mean accuracy on `num_images`, not on seeds times images. How much
    the seed matters is `std`, beside it.

    Args:
        values: Test accuracy of each seed, fractions in [0, 1]; at least one.
        num_images: Number of test images that each was measured on.

    Returns:
        `dict`, ready for JSON: `mean`, `std` (of the sample, ddof 1; `None` for a single seed,
        which says nothing of the spread), `values`, `interval95` ([low, high]).

    Raises:
        ValueError: If there are no values, or one is out of range.
    """
    values = [float(value) for value in values]
    if not values or not all(0 <= value <= 1 for value in values):
        raise ValueError(f"Expected accuracies in [0, 1]. Received: values={values}")
    mean = statistics.fmean(values)
    return {
        "mean": mean,
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "values": values,
        "interval95": list(wilson_interval(mean * num_images, num_images)),
    }


def mcnemar_test(right_first, right_second):
    """Whether two models that saw the same images differ by more than chance.

    Only images that one gets right and the other wrong tell them apart; if neither is better, each
    of those falls to either side like a coin. The test is exact.

    Args:
        right_first, right_second: bool (num_images,), whether each model was right on each image.

    Returns:
        `dict`: `only_first`, `only_second` (numbers of images that only one got right) and
        `p_value`, two-sided, in [0, 1].

    Raises:
        ValueError: If the lengths differ.

    Reference:
        McNemar, "Note on the sampling error of the difference between correlated proportions"
        (1947); the exact binomial form.
    """
    pairs = [(bool(a), bool(b)) for a, b in zip(right_first, right_second, strict=True)]
    only_first, only_second = pairs.count((True, False)), pairs.count((False, True))
    number, fewer = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(number, k) for k in range(fewer + 1)) / 2**number
    return {
        "only_first": only_first,
        "only_second": only_second,
        "p_value": min(1.0, 2 * tail),
    }


def adjust_p_values(p_values):
    """Corrects for having made several comparisons, by Holm's step-down method.

    Among 45 comparisons of equally good models some two fall below 0.05 by chance alone. Of the
    adjusted values, the chance that any one does is 0.05 at most.

    Args:
        p_values: Floats in [0, 1], one a comparison.

    Returns:
        A list of floats in [0, 1], in the same order, none below its `p_value`.

    Reference:
        Holm, "A simple sequentially rejective multiple test procedure" (1979).
    """
    number, adjusted, largest = len(p_values), [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(number), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (number - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
