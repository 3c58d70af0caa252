"""Losses of descriptors: pairs and labelled batches, and a student after its teacher.

All are scalars, differentiable, in the dtype of their arguments, and draw nothing at random.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from engine.errors import InvalidOption

PAIR_MARGIN = 0.7
TRIPLET_MARGIN = 0.5

LabelledLoss = Callable[[Tensor, Tensor], Tensor]
"""Of (N, D) descriptors and their (N,) int64 labels."""


# Pairs


def contrastive(left: Tensor, right: Tensor, same: Tensor, *, margin: float) -> Tensor:
    """Matching pairs are drawn together, others pushed apart up to a margin; summed over pairs.

    L = sum over pairs of 1/2 y d^2 + 1/2 (1 - y) max(0, margin - d)^2

    Eq 13 and 14 of the paper, each with the factor 1/2 of Radenovic, Tolias and Chum
    (arXiv:1711.02512). As in their code d = ||left - right + 1e-6||, which has a gradient
    where both are equal too.

    Args:
        left: (P, D) float descriptors.
        right: (P, D).
        same: y, (P,) bool, whether the pair matches.
        margin: tau, the distance from which other pairs are left alone.

    Raises: ValueError for wrong shapes, or a `same` that is not bool.
    """
    if left.ndim != 2 or left.shape != right.shape:
        raise ValueError(
            f"left and right have shapes {tuple(left.shape)} and {tuple(right.shape)}; "
            "expected (P, D) both"
        )
    if same.shape != left.shape[:1] or same.dtype != torch.bool:
        raise ValueError(
            f"same is {same.dtype} of shape {tuple(same.shape)}; expected bool ({len(left)},)"
        )
    distance = torch.linalg.vector_norm(left - right + 1e-6, dim=1)  # (P,)
    missing = (margin - distance).clamp(min=0)
    return torch.where(same, distance, missing).square().sum() / 2


# Labelled batches


def pair_loss(descriptors: Tensor, labels: Tensor, *, margin: float = PAIR_MARGIN) -> Tensor:
    """`contrastive` over all pairs of a batch, divided by their number; 0 for a batch of one.

    Not the library's ContrastiveLoss: that is max(0, d) and max(0, margin - d), and what its
    distance can be configured to square is d, not the hinge.

    Args:
        descriptors: (N, D) float.
        labels: (N,) int64.

    Raises: ValueError for wrong shapes.
    """
    _check_labelled(descriptors, labels)
    one, other = torch.triu_indices(len(labels), len(labels), 1, device=descriptors.device)
    same = labels[one] == labels[other]
    loss = contrastive(descriptors[one], descriptors[other], same, margin=margin)
    return loss / max(1, len(one))


def triplet(descriptors: Tensor, labels: Tensor, *, margin: float = TRIPLET_MARGIN) -> Tensor:
    """Mean over the triplets of a batch that violate the margin; 0 if none does.

    L(a, p, n) = [||a - p||^2 - ||a - n||^2 + margin]_+   (FaceNet, arXiv:1503.03832)

    over all a, p of one label and n of another. Those without a loss are not counted, as in
    arXiv:1703.07737 ("batch all", non-zero): soon they would be nearly all.

    Args:
        descriptors: (N, D) float.
        labels: (N,) int64.

    Raises: ValueError for wrong shapes; InvalidOption where pytorch-metric-learning is missing.
    """
    _check_labelled(descriptors, labels)
    library = _library()
    loss = library.losses.TripletMarginLoss(
        margin=margin,
        distance=library.distances.LpDistance(normalize_embeddings=False, p=2, power=2),
        reducer=library.reducers.AvgNonZeroReducer(),
        triplets_per_anchor="all",  # a number would draw that many at random
    )
    result: Tensor = loss(descriptors, labels)
    return result


def lifted_structure(descriptors: Tensor, labels: Tensor, *, margin: float = 1.0) -> Tensor:
    """Each matching pair against all that do not match either of the two (arXiv:1511.06452, Eq 4).

    J_ij = [log(sum over n of e^(margin - D_in) + sum over n of e^(margin - D_jn)) + D_ij]_+
    L = sum over matching pairs {i, j} of J_ij^2 / (2 |P|)

    where n has another label, D is the Euclidean distance and |P| the number of matching pairs.
    0 if there is no matching pair, or nothing that does not match.

    Args:
        descriptors: (N, D) float.
        labels: (N,) int64.

    Raises: ValueError for wrong shapes; InvalidOption where pytorch-metric-learning is missing.
    """
    _check_labelled(descriptors, labels)
    library = _library()
    # Over both orders of each pair, with a factor of 1/2: the mean of that is L.
    loss = library.losses.LiftedStructureLoss(
        neg_margin=margin,
        pos_margin=0,
        distance=library.distances.LpDistance(normalize_embeddings=False, p=2, power=1),
        reducer=library.reducers.MeanReducer(),
    )
    result: Tensor = loss(descriptors, labels)
    return result


def multi_similarity(
    descriptors: Tensor,
    labels: Tensor,
    *,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
) -> Tensor:
    """Pairs weighted by how they compare with the others (Wang et al., CVPR 2019).

    L = mean over i of 1/alpha log(1 + sum over matches k of e^(-alpha (S_ik - base)))
                     + 1/beta log(1 + sum over others k of e^(beta (S_ik - base)))

    where S is the cosine. All pairs count: the paper's selection of pairs is not made.

    Args:
        descriptors: (N, D) float.
        labels: (N,) int64.

    Raises: ValueError for wrong shapes; InvalidOption where pytorch-metric-learning is missing.
    """
    _check_labelled(descriptors, labels)
    library = _library()
    loss = library.losses.MultiSimilarityLoss(alpha=alpha, beta=beta, base=base)
    result: Tensor = loss(descriptors, labels)
    return result


def ntxent(descriptors: Tensor, labels: Tensor, *, temperature: float = 0.07) -> Tensor:
    """Each match against what does not match (arXiv:1807.03748; NT-Xent, arXiv:2002.05709).

    L = mean over matches (i, j), in both orders, of
        -log(e^(S_ij / t) / (e^(S_ij / t) + sum over n of e^(S_in / t)))

    where S is the cosine and n has another label. 0 if there is no match, or nothing else.

    Args:
        descriptors: (N, D) float.
        labels: (N,) int64.
        temperature: t.

    Raises: ValueError for wrong shapes; InvalidOption where pytorch-metric-learning is missing.
    """
    _check_labelled(descriptors, labels)
    loss = _library().losses.NTXentLoss(temperature=temperature)
    result: Tensor = loss(descriptors, labels)
    return result


_WITH_MARGIN: dict[str, Callable[..., Tensor]] = {
    "triplet": triplet,
    "lifted": lifted_structure,
    "pair": pair_loss,
}
_WITHOUT_MARGIN: dict[str, Callable[..., Tensor]] = {
    "multi_similarity": multi_similarity,
    "ntxent": ntxent,
}

LABELLED_LOSSES = (*_WITH_MARGIN, *_WITHOUT_MARGIN)


def labelled_loss(name: str, *, margin: float | None = None) -> LabelledLoss:
    """The loss of that name, of descriptors (N, D) and labels (N,).

    Args:
        name: one of `LABELLED_LOSSES`.
        margin: None for the loss's own; `multi_similarity` and `ntxent` have none.

    Raises: InvalidOption for another name or margin, or where pytorch-metric-learning is needed
        and missing.
    """
    if name not in LABELLED_LOSSES:
        raise InvalidOption(f"loss {name!r} is unknown; choose from {', '.join(LABELLED_LOSSES)}")
    if name != "pair":
        _library()  # now, not at the first batch
    if margin is None:
        return {**_WITH_MARGIN, **_WITHOUT_MARGIN}[name]
    if name in _WITHOUT_MARGIN:
        raise InvalidOption(f"margin is {margin}, but the loss {name!r} has none; leave it out")
    if not 0 < margin < float("inf"):
        raise InvalidOption(f"margin is {margin}; it must be a number above 0")
    return partial(_WITH_MARGIN[name], margin=margin)


# A student after its teacher


def descriptor_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """||student - teacher||^2 / (2 N): EuclideanLoss of Caffe, as my-deep-retrieval distils with.

    Args:
        student: (N, D) float descriptors, N >= 1.
        teacher: (N, D).

    Raises: ValueError for wrong shapes.
    """
    _check_alike(student, teacher, "(N, D)")
    return (student - teacher).square().sum() / (2 * len(student))


def pair_distances(student: Tensor, teacher: Tensor) -> Tensor:
    """The student's squared distances within a batch after those of its teacher.

    L = sum over pairs i < j of (||s_i - s_j||^2 - ||t_i - t_j||^2)^2 / #pairs

    (my-deep-retrieval, for a student with fewer dimensions.) 0 for a batch of one.

    Args:
        student: (N, D) float descriptors.
        teacher: (N, E); E may differ from D.

    Raises: ValueError for wrong shapes.
    """
    errors = _distance_errors(student, teacher)
    return errors.sum() / max(1, len(errors))


def log_pair_distances(student: Tensor, teacher: Tensor) -> Tensor:
    """As `pair_distances`, with the worst pairs before all: the log of a mean of exponentials.

    L = log(sum over pairs i < j of e^((||s_i - s_j||^2 - ||t_i - t_j||^2)^2) / #pairs)

    0 for a perfect student, and for a batch of one.

    Args:
        student: (N, D) float descriptors.
        teacher: (N, E); E may differ from D.

    Raises: ValueError for wrong shapes.
    """
    errors = _distance_errors(student, teacher)
    if not len(errors):
        return errors.sum()
    # Not log(sum(exp)): the exponential of a large error overflows.
    return torch.logsumexp(errors, dim=0) - math.log(len(errors))


def map_distance(
    student: Tensor,
    teacher: Tensor,
    *,
    error: float = 1.0,
    direction: float = 1.0,
    means: float = 1.0,
) -> Tensor:
    """How far the student's activations are from the teacher's; 0 where they are equal.

    L = error * mean of (s - t)^2 / mean of t^2
      + direction * mean over positions of (1 - cos(s_p, t_p))
      + means * mean of (S - T)^2 / mean of T^2

    with s_p, t_p the channels at a position, and S, T (B, C) the means of each channel over an
    image. The first looks at everything, the second at weak positions as much as at strong ones,
    the third at what pooling sums. Positions where the teacher is all zero have no direction and
    are left out of the second; a student of zero has the cosine 0 there. A teacher of nothing but
    zeros has the scale 1.

    Args:
        student: (B, C, H, W) float.
        teacher: (B, C, H, W).
        error: weight of the first term; the others likewise.

    Raises: ValueError for wrong shapes.
    """
    _check_alike(student, teacher, "(B, C, H, W)")
    averages = _relative_error(student.mean(dim=(2, 3)), teacher.mean(dim=(2, 3)))
    return (
        error * _relative_error(student, teacher)
        + direction * _turn(student, teacher)
        + means * averages
    )


def _relative_error(student: Tensor, teacher: Tensor) -> Tensor:
    size = teacher.square().mean()
    return (student - teacher).square().mean() / torch.where(size > 0, size, 1.0)


def _turn(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of 1 - cosine over the positions where the teacher is not zero."""
    product = (student * teacher).sum(dim=1)  # (B, H, W)
    length: Tensor = torch.linalg.vector_norm(teacher, dim=1)
    lengths = length * torch.linalg.vector_norm(student, dim=1)
    # Selected before the division: else the gradient at a zero would be that of 0 / 0.
    cosine = torch.where(lengths > 0, product, 0.0) / torch.where(lengths > 0, lengths, 1.0)
    seen = length > 0
    return torch.where(seen, 1 - cosine, 0.0).sum() / seen.sum().clamp(min=1)


def _distance_errors(student: Tensor, teacher: Tensor) -> Tensor:
    """(N (N - 1) / 2,): what is squared and summed by `pair_distances`."""
    if student.ndim != 2 or teacher.ndim != 2 or len(student) != len(teacher):
        raise ValueError(
            f"student and teacher have shapes {tuple(student.shape)} and {tuple(teacher.shape)}; "
            "expected (N, D) and (N, E)"
        )
    # Not by products: what they lose for close descriptors is all there is to learn from.
    errors: Tensor = F.pdist(student).square() - F.pdist(teacher).square()
    return errors.square()


def _check_labelled(descriptors: Tensor, labels: Tensor) -> None:
    if descriptors.ndim != 2 or labels.shape != descriptors.shape[:1]:
        raise ValueError(
            f"descriptors and labels have shapes {tuple(descriptors.shape)} and "
            f"{tuple(labels.shape)}; expected (N, D) and (N,)"
        )


def _check_alike(student: Tensor, teacher: Tensor, form: str) -> None:
    if student.ndim != form.count(",") + 1 or student.shape != teacher.shape or not student.numel():
        raise ValueError(
            f"student and teacher have shapes {tuple(student.shape)} and {tuple(teacher.shape)}; "
            f"expected {form} both, and not empty"
        )


def _library() -> Any:
    """pytorch-metric-learning; not a dependency of who only searches."""
    try:
        import pytorch_metric_learning
        import pytorch_metric_learning.distances
        import pytorch_metric_learning.losses
        import pytorch_metric_learning.reducers
    except ImportError as error:
        raise InvalidOption(
            "pytorch-metric-learning is missing, which this loss needs; "
            "install cooc-image-search[train]"
        ) from error
    return pytorch_metric_learning
