"""How certain is a figure that was measured on a limited number of images?"""

import math
import statistics

import numpy as np
import scipy.stats

__all__ = ["adjust_p_values", "mcnemar_test", "summarize_seeds", "wilson_interval"]

_Z95 = statistics.NormalDist().inv_cdf(0.975)


def wilson_interval(successes, total):
    """95 % confidence interval of a proportion, by Wilson's score.

    Near 100 % the usual p ± 1.96 s reaches past 1 and covers too rarely; this one does neither.

    Args:
        successes: Number of successes in [0, `total`]; may be fractional (a mean over seeds).
        total: Number of trials, at least 1.

    Returns:
        `(low, high)`, floats in [0, 1].

    Reference:
        Wilson, [Probable inference, the law of succession, and statistical
        inference](https://doi.org/10.1080/01621459.1927.10502953), 1927.
    """
    # Not scipy.stats.binomtest, which takes integers only: rounding a mean over seeds would move
    # its interval by up to half an image.
    rate = successes / total
    centre = rate + _Z95**2 / (2 * total)
    margin = _Z95 * math.sqrt(rate * (1 - rate) / total + (_Z95 / (2 * total)) ** 2)
    scale = 1 + _Z95**2 / total
    low, high = (centre - margin) / scale, (centre + margin) / scale
    # The interval contains the rate; rounding alone would miss an exact 0 or 1 by 1e-17.
    return max(0.0, min(low, rate)), min(1.0, max(high, rate))


def summarize_seeds(values, num_images):
    """Mean accuracy over several seeds, with its uncertainty.

    All seeds are tested on the same images, so more seeds do not make the test set larger: the
    interval is Wilson's for the mean accuracy on `num_images`, not on seeds times images. How much
    the seed matters is `std`, beside it.

    Args:
        values: Test accuracy of each seed, fractions in [0, 1]; at least one.
        num_images: Number of test images that each was measured on.

    Returns:
        `dict`, ready for JSON: `mean`, `std` (of the sample, ddof 1; `None` for a single seed),
        `values`, `interval95` ([low, high]).
    """
    values = [float(value) for value in values]
    mean = statistics.fmean(values)
    return {
        "mean": mean,
        "std": statistics.stdev(values) if len(values) > 1 else None,
        "values": values,
        "interval95": list(wilson_interval(mean * num_images, num_images)),
    }


def mcnemar_test(right_first, right_second):
    """Tests whether two models that saw the same images differ by more than chance.

    What counts are the images that one model classifies correctly and the other does not. If the
    models are equally good, each of those falls to either side with probability one half: the
    exact binomial form of McNemar's test.

    Args:
        right_first, right_second: bool (num_images,), whether each model was correct on each image.

    Returns:
        `dict`: `only_first`, `only_second` (numbers of images that only one model classified
        correctly) and `p_value`, two-sided, in [0, 1].

    Reference:
        McNemar, "Note on the sampling error of the difference between correlated proportions",
        1947.
    """
    first, second = np.asarray(right_first, bool), np.asarray(right_second, bool)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    number = only_first + only_second
    return {
        "only_first": only_first,
        "only_second": only_second,
        "p_value": float(scipy.stats.binomtest(only_first, number).pvalue) if number else 1.0,
    }


def adjust_p_values(p_values):
    """Corrects p-values for the number of comparisons, by Holm's step-down method.

    Among 45 comparisons of equally good models some two fall below 0.05 by chance alone. The
    probability that any of the adjusted values does is 0.05 at most.

    Args:
        p_values: Floats in [0, 1], one per comparison.

    Returns:
        A list of floats in [0, 1], in the same order, none below its `p_value`.

    Reference:
        Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    number, adjusted, largest = len(p_values), [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(number), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (number - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
