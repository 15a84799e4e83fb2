"""How far judges can be trusted: chance-corrected agreement of two, and a rate corrected for one judge's known errors."""

import numpy as np


def cohen_kappa(a: np.ndarray, b: np.ndarray) -> float:
    """(observed - expected) / (1 - expected) agreement of two judges' answers (n,) (Cohen 1960); labels of any kind.

    1: always the same answer, 0: as often as chance would have it. NaN where both gave one and the same answer throughout,
    since chance alone explains that. Images that a judge did not answer (NaN) are left out.
    """
    a, b = np.asarray(a), np.asarray(b)
    if len(a) != len(b) or len(a) == 0:
        raise ValueError(f"two judges must answer the same images, at least one; got {len(a)} and {len(b)} answers.")
    if a.dtype.kind == b.dtype.kind == "f":
        judged = ~(np.isnan(a) | np.isnan(b))
        a, b = a[judged], b[judged]
    labels = np.unique(np.concatenate([a, b]))
    expected = sum((a == label).mean() * (b == label).mean() for label in labels)
    return float("nan") if expected == 1 else float(((a == b).mean() - expected) / (1 - expected))


def rogan_gladen(rate: float, sensitivity: float, specificity: float) -> float:
    """The true share behind a judge's `rate` of yes (Rogan & Gladen 1978): (rate + sp - 1) / (se + sp - 1), within 0 and 1.

    sensitivity: share of images with the thing that the judge says yes to; specificity: share without it that it says no
    to. Show the raw rate too: errors of these two become errors of the result, divided by se + sp - 1.
    """
    for name, value in (("rate", rate), ("sensitivity", sensitivity), ("specificity", specificity)):
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value} must be a share between 0 and 1.")
    power = sensitivity + specificity - 1
    if power <= 0:
        raise ValueError(f"a judge with sensitivity {sensitivity} and specificity {specificity} answers at random or the wrong way round.")
    return min(1.0, max(0.0, (rate + specificity - 1) / power))
