"""Whitening learned from pairs of images that match (Lw)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.postprocess.projection import LinearProjection, check_share

BLOCK_ROWS = 4096
"""Rows that are turned into double precision at once."""
ENOUGH_PAIRS = 4
"""Independent pairs per dimension from which their covariance is taken as it is."""
MAX_SHRINKAGE = 0.5
"""Learned from the pairs of one half of 31 products (n = 285, r = 512 to 678) and asked for the
other, 0.5 to 0.7 rank best, 16 to 20 mAP above no shrinkage. In fewer dimensions (r = 30 to 200)
the best falls with r / n, to 0.1 at n = 4 r; there 0 costs less than 1 mAP."""


@dataclass(frozen=True)
class LearnedWhitening(LinearProjection):
    """y = L2(P (x - mean)): what differs between matching images is damped.

    P = U^T C^-1/2, where C = mean of (q - p)(q - p)^T over matching pairs, C^-1/2 is the inverse of
    its Cholesky factor, and U are the principal directions of what that makes of all vectors
    (Radenovic, Tolias, Chum, arXiv:1711.02512, section 3.3, after Mikolajczyk and Matas).

    Attributes:
        mean: (D,) float32, of the queries.
        directions: P, (d, D) float32. Differences of pairs have the covariance I along them.
        eigenvalues: (d,) float32, how much all vectors vary along the directions, descending, where
            pairs vary by 1.
        shrinkage: share by which C was drawn towards a sphere, in [0, 1].
    """

    eigenvalues: Tensor
    shrinkage: float

    @classmethod
    def fit(
        cls,
        vectors: Tensor,
        queries: Tensor,
        positives: Tensor,
        dim: int = 512,
        *,
        shrinkage: float | None = None,
    ) -> LearnedWhitening:
        """Learn from P matching pairs among N vectors.

        n independent pairs (all those of 20 photos of one object are 19) say little about r > n
        dimensions: the inverse of their covariance would be decided by what no pair happens to
        show. So it is shrunk: (1 - s) C + s m I with m = trace(C) / r and s = r / (2 n), at most
        0.5, and 0 from n = 4 r on. The more it is shrunk, the more this is plain PCA.

        Double precision inside. D = 8192 with as many vectors takes 3 GB and, on two cores, 95 s;
        with fewer vectors than dimensions N counts instead of D (979 vectors: 1 s).

        Args:
            vectors: (N, D).
            queries: (P,) int64 rows.
            positives: (P,) int64 rows, each a match of the query beside it.
            dim: of the result, at most; it has no more than the vectors span.
            shrinkage: s, if not to be chosen as above; 0 is the published form.

        Raises: ValueError for rows that are none, pairs that do not differ, or a shrinkage outside
            [0, 1].
        """
        _check(vectors, queries, positives)
        check_share("shrinkage", shrinkage or 0.0)
        mean = _mean_of_rows(vectors, queries)
        coordinates, centre, basis = _coordinates(vectors, mean)
        rank = coordinates.shape[1]
        if shrinkage is None:
            shrinkage = _chosen_shrinkage(_independent(queries, positives), rank)
        pairs = zip(_blocks(queries), _blocks(positives), strict=True)
        differences = (coordinates[q].double() - coordinates[p].double() for q, p in pairs)
        everything = (part.double() - centre for part in _blocks(coordinates))
        factor = _cholesky(_moment(differences, rank), shrinkage)
        values, columns = _directions(factor, _moment(everything, rank), dim)
        if basis is not None:
            columns = basis @ columns  # (D, d)
        return cls(
            mean=mean.float(),
            directions=columns.T.float().contiguous(),
            eigenvalues=values.float(),
            shrinkage=shrinkage,
        )

    def tensors(self) -> dict[str, Tensor]:
        """What has to be saved; `from_tensors` gives the projection back."""
        return {
            "mean": self.mean,
            "directions": self.directions,
            "eigenvalues": self.eigenvalues,
            "shrinkage": torch.tensor(self.shrinkage, dtype=torch.float64),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> LearnedWhitening:
        return cls(
            tensors["mean"],
            tensors["directions"],
            tensors["eigenvalues"],
            float(tensors["shrinkage"]),
        )


def _check(vectors: Tensor, queries: Tensor, positives: Tensor) -> None:
    if vectors.ndim != 2 or vectors.shape[0] < 2:
        raise ValueError(f"vectors have shape {tuple(vectors.shape)}; expected (N >= 2, D)")
    if queries.ndim != 1 or queries.shape != positives.shape or not len(queries):
        raise ValueError(
            f"queries and positives have shapes {tuple(queries.shape)} and "
            f"{tuple(positives.shape)}; expected (P >= 1,) both"
        )
    for name, rows in (("queries", queries), ("positives", positives)):
        low, high = int(rows.min()), int(rows.max())
        if low < 0 or high >= len(vectors):
            raise ValueError(f"{name} has rows {low} to {high}; expected 0 to {len(vectors) - 1}")


def _mean_of_rows(vectors: Tensor, rows: Tensor) -> Tensor:
    """(D,) float64; a row that is named twice counts twice."""
    total = torch.zeros(vectors.shape[1], dtype=torch.float64, device=vectors.device)
    for part in _blocks(rows):
        total += vectors[part].double().sum(dim=0)
    return total / len(rows)


def _blocks(rows: Tensor) -> Iterator[Tensor]:
    return (rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS))


def _coordinates(vectors: Tensor, mean: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Vectors as (N, r) coordinates, what to subtract of them, and the basis (D, r) they are in.

    With fewer vectors than dimensions that is a basis of their span: products in it are small, and
    outside of it there is nothing. Else the vectors stay as they are.
    """
    if vectors.shape[0] >= vectors.shape[1]:
        return vectors, mean, None
    centred = vectors.double() - mean
    values, left = torch.linalg.eigh(centred @ centred.T)
    some = values > 1e-10 * values[-1]
    if not some.any():
        raise ValueError("all vectors are equal; there is nothing to learn from")
    basis = centred.T @ (left[:, some] / values[some].sqrt())
    return centred @ basis, mean.new_zeros(()), basis


def _moment(blocks: Iterable[Tensor], dim: int) -> Tensor:
    """Mean of x x^T over the rows x of (n, dim) float64 blocks."""
    total, count = torch.zeros(dim, dim, dtype=torch.float64), 0
    for block in blocks:
        total = total.to(block.device).addmm_(block.T, block)
        count += len(block)
    return total.div_(count)


def _independent(queries: Tensor, positives: Tensor) -> int:
    """Pairs whose difference is no sum of those of others: the edges of a spanning forest."""
    parent: dict[int, int] = {}

    def root(row: int) -> int:
        while (above := parent.setdefault(row, row)) != row:
            parent[row] = row = parent[above]
        return row

    found = 0
    for query, positive in zip(queries.tolist(), positives.tolist(), strict=True):
        one, other = root(query), root(positive)
        if one != other:
            parent[one] = other
            found += 1
    return found


def _chosen_shrinkage(pairs: int, rank: int) -> float:
    if pairs >= ENOUGH_PAIRS * rank:
        return 0.0
    return min(MAX_SHRINKAGE, rank / (2 * max(1, pairs)))


def _cholesky(covariance: Tensor, shrinkage: float) -> Tensor:
    """Lower factor of the shrunk covariance, with as little added to its diagonal as it takes."""
    mean = covariance.diagonal().mean()
    if not 0 < float(mean) < float("inf"):
        raise ValueError("the vectors of the pairs do not differ; there is nothing to learn from")
    shrunk = (1 - shrinkage) * covariance
    shrunk.diagonal().add_(shrinkage * mean)
    for exponent in range(-10, 1):
        shrunk.diagonal().add_(10.0**exponent * mean)
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(shrunk)
        if not failed:
            return factor
    raise ValueError("the covariance of the pairs is no covariance; are the vectors finite?")


def _directions(factor: Tensor, total: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Principal directions after whitening by the Cholesky factor L of C.

    Args:
        total: S, (r, r), second moment of all vectors.

    Returns: the leading eigenvalues of L^-1 S L^-T, descending, (d,), and L^-T U, (r, d).
    """
    whitened = torch.linalg.solve_triangular(factor, total, upper=False)
    whitened = torch.linalg.solve_triangular(factor, whitened.T, upper=False)
    values, rotation = torch.linalg.eigh(whitened)  # ascending
    values = values.flip(0)
    keep = max(1, min(dim, int((values > 1e-7 * values[0]).sum())))
    rotation = rotation.flip(1)[:, :keep]
    return values[:keep], torch.linalg.solve_triangular(factor.T, rotation, upper=True)
