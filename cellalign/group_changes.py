"""Changes of groups of cells in closed form: what one group's change says of another's.

A group is whatever has cells under both conditions (a cell type, a donor, a type of a donor, a dose); its change is the
difference of its mean under the other condition from its mean under the control. Methods and baselines share these.
"""

from __future__ import annotations

import numpy as np

SHARPNESS = 4.0


def likeness(control: np.ndarray, controls: np.ndarray, sharpness: float = SHARPNESS) -> np.ndarray:
    """Weight of each group [n] by how near its control mean is: exp(-sharpness d / mean d), summing up to 1.

    Parameters
    ----------
    control : array [..., G]
        Control mean of the group that is asked for; of several, or of cells, one row each.
    controls : array [n, G]
        Those of the groups whose changes are known.
    sharpness : float
        0 weighs all groups alike.

    Returns
    -------
    array [..., n]
    """
    distance = np.linalg.norm(np.asarray(control)[..., None, :] - controls, axis=-1)
    scale = distance.mean(-1, keepdims=True)
    weights = np.exp(-sharpness * distance / np.where(scale > 0, scale, 1.0))
    return weights / weights.sum(-1, keepdims=True)


def local_shift(
    control: np.ndarray,
    controls: np.ndarray,
    changes: np.ndarray,
    *,
    sharpness: float = SHARPNESS,
    shrink: float = 0.0,
) -> np.ndarray:
    """Change [..., G] of a group as the changes of others, weighted by the likeness of their control means.

    Parameters
    ----------
    control : array [..., G]
    controls, changes : arrays [n, G]
        Control means and changes of the other groups.
    sharpness : float
        With 0 and no shrinkage it is their mean change.
    shrink : float
        How much of the group's deviation from the likewise weighted control mean is taken back: states converge under
        treatment.
    """
    weights = likeness(control, controls, sharpness)
    return weights @ changes - shrink * (np.asarray(control) - weights @ controls)
