"""Losses, mining and batches again, as slow loops straight from their equations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float64]
"""(N, D)"""


def pairs(count: int) -> Iterator[tuple[int, int]]:
    yield from ((i, j) for i in range(count) for j in range(i + 1, count))


def distance(x: Vectors, y: Vectors, inside: float = 0.0) -> float:
    return math.sqrt(sum((float(a) - float(b) + inside) ** 2 for a, b in zip(x, y, strict=True)))


def cosine(x: Vectors, y: Vectors) -> float:
    lengths = math.sqrt(float(x @ x)) * math.sqrt(float(y @ y))
    return float(x @ y) / lengths if lengths else 0.0


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def contrastive(left: Vectors, right: Vectors, same: Sequence[bool], margin: float) -> float:
    total = 0.0
    for x, y, match in zip(left, right, same, strict=True):
        d = distance(x, y, 1e-6)
        total += d * d / 2 if match else max(0.0, margin - d) ** 2 / 2
    return total


def pair_loss(x: Vectors, labels: Sequence[int], margin: float) -> float:
    return mean(
        [
            contrastive(x[i : i + 1], x[j : j + 1], [labels[i] == labels[j]], margin)
            for i, j in pairs(len(x))
        ]
    )


def triplet(x: Vectors, labels: Sequence[int], margin: float) -> float:
    found = []
    for a in range(len(x)):
        for p in range(len(x)):
            for n in range(len(x)):
                if a != p and labels[a] == labels[p] and labels[a] != labels[n]:
                    loss = distance(x[a], x[p]) ** 2 - distance(x[a], x[n]) ** 2 + margin
                    if loss > 0:
                        found.append(loss)
    return mean(found)


def lifted(x: Vectors, labels: Sequence[int], margin: float) -> float:
    matching = [(i, j) for i, j in pairs(len(x)) if labels[i] == labels[j]]
    total = 0.0
    for i, j in matching:
        negatives = 0.0
        for k in range(len(x)):
            if labels[k] != labels[i]:
                negatives += math.exp(margin - distance(x[i], x[k]))
                negatives += math.exp(margin - distance(x[j], x[k]))
        if negatives:
            total += max(0.0, math.log(negatives) + distance(x[i], x[j])) ** 2
    return total / (2 * len(matching)) if matching else 0.0


def multi_similarity(
    x: Vectors, labels: Sequence[int], alpha: float, beta: float, base: float
) -> float:
    losses = []
    for i in range(len(x)):
        matches, others = 0.0, 0.0
        for k in range(len(x)):
            if k != i and labels[k] == labels[i]:
                matches += math.exp(-alpha * (cosine(x[i], x[k]) - base))
            elif k != i:
                others += math.exp(beta * (cosine(x[i], x[k]) - base))
        losses.append(math.log(1 + matches) / alpha + math.log(1 + others) / beta)
    return mean(losses)


def ntxent(x: Vectors, labels: Sequence[int], temperature: float) -> float:
    losses = []
    for i in range(len(x)):
        others = sum(
            math.exp(cosine(x[i], x[n]) / temperature)
            for n in range(len(x))
            if labels[n] != labels[i]
        )
        for j in range(len(x)):
            if j != i and labels[j] == labels[i] and others:
                match = math.exp(cosine(x[i], x[j]) / temperature)
                losses.append(-math.log(match / (match + others)))
    return mean(losses)


def descriptor_distance(student: Vectors, teacher: Vectors) -> float:
    total = sum(distance(s, t) ** 2 for s, t in zip(student, teacher, strict=True))
    return total / (2 * len(student))


def distance_errors(student: Vectors, teacher: Vectors) -> list[float]:
    return [
        (distance(student[i], student[j]) ** 2 - distance(teacher[i], teacher[j]) ** 2) ** 2
        for i, j in pairs(len(student))
    ]


def map_distance(
    student: NDArray[np.float64],
    teacher: NDArray[np.float64],
    error: float = 1.0,
    direction: float = 1.0,
    means: float = 1.0,
) -> float:
    batch, channels, height, width = student.shape
    errors, sizes, turns, mean_errors, mean_sizes = [], [], [], [], []
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                s, t = student[b, :, i, j], teacher[b, :, i, j]
                errors += [(float(x) - float(y)) ** 2 for x, y in zip(s, t, strict=True)]
                sizes += [float(y) ** 2 for y in t]
                if t.any():
                    turns.append(1 - cosine(s, t))
        for c in range(channels):
            s_mean = mean([float(v) for v in student[b, c].flat])
            t_mean = mean([float(v) for v in teacher[b, c].flat])
            mean_errors.append((s_mean - t_mean) ** 2)
            mean_sizes.append(t_mean**2)
    return (
        error * mean(errors) / (mean(sizes) or 1.0)
        + direction * mean(turns)
        + means * mean(mean_errors) / (mean(mean_sizes) or 1.0)
    )


def hard_negatives(
    queries: Vectors,
    query_clusters: Sequence[int],
    pool: Vectors,
    pool_clusters: Sequence[int],
    count: int,
) -> list[list[int]]:
    """The whole pool sorted for each query, and walked through from the front."""
    lengths = [math.sqrt(float(row @ row)) for row in pool]
    found = []
    for query, own in zip(queries, query_clusters, strict=True):
        similarities = [
            float(query @ row) / length if length else 0.0
            for row, length in zip(pool, lengths, strict=True)
        ]
        chosen: list[int] = []
        taken = {own}
        for row in sorted(range(len(pool)), key=lambda row: (-similarities[row], row)):
            if pool_clusters[row] not in taken and len(chosen) < count:
                chosen.append(row)
                taken.add(pool_clusters[row])
        found.append(chosen)
    return found


def mean_average_precision(x: Vectors, clusters: Sequence[int], queries: Sequence[int]) -> float:
    """The trapezoid rule written out: the precision before and after each step of recall."""
    unit = [row / (math.sqrt(float(row @ row)) or 1.0) for row in x]
    values = []
    for query in sorted(set(queries)):
        others = [row for row in range(len(x)) if row != query]
        others.sort(key=lambda row: (-float(unit[query] @ unit[row]), row))
        matches = [clusters[row] == clusters[query] for row in others]
        if not any(matches):
            continue
        total, before = 0.0, 1.0
        for rank in range(1, len(others) + 1):
            after = sum(matches[:rank]) / rank
            total += (before + after) / 2 if matches[rank - 1] else 0.0
            before = after
        values.append(total / sum(matches))
    return mean(values)
