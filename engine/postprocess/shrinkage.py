"""How far a covariance estimated from few samples should be drawn towards a sphere."""

from __future__ import annotations

from torch import Tensor


def ledoit_wolf_shrinkage(descriptors: Tensor) -> float:
    """The share s for which (1 - s) S + s m I is expected to be closest to the true covariance.

    With S the covariance of the N rows x_k, taken from their mean, m = trace(S) / D and the norm
    |A|^2 = trace(A A^T) / D (Ledoit and Wolf, A well-conditioned estimator for large-dimensional
    covariance matrices, 2004, section 3.2):

        d^2 = |S - m I|^2,   b^2 = min(d^2, sum over k of |x_k x_k^T - S|^2 / N^2),   s = b^2 / d^2

    The larger product of the rows, D x D where N < D, is never made: |S| is that of the other.

    Args:
        descriptors: (N, D), N >= 2.

    Returns: in [0, 1]; 0 where S is a sphere already.
    Raises: ValueError for fewer than two rows.
    """
    if descriptors.ndim != 2 or descriptors.shape[0] < 2:
        raise ValueError(f"descriptors have shape {tuple(descriptors.shape)}; expected (N >= 2, D)")
    count, dim = descriptors.shape
    x = descriptors.double()
    x = x - x.mean(dim=0)
    product = x @ x.T if count < dim else x.T @ x
    squared_norm = float(product.square().sum()) / count**2  # trace(S S)
    lengths = x.square().sum(dim=1)  # (N,)
    mean = float(lengths.sum()) / (count * dim)
    distance = squared_norm / dim - mean**2
    # sum of |x_k x_k^T - S|^2 D = sum of |x_k|^4 - N trace(S S): the mean of x_k x_k^T is S.
    spread = (float(lengths.square().sum()) / count - squared_norm) / (count * dim)
    # Beside the mean what rounding leaves of a distance is none.
    if distance <= 1e-14 * mean**2:
        return 0.0
    return min(1.0, max(0.0, spread / distance))
