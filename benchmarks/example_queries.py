"""How much several examples, wanted and unwanted, help to find more of a kind.

    python -m benchmarks.example_queries DATASET

For each group of photos that show the same thing: some are drawn as positive examples, the others
have to be found. The negative examples are what a user would mark: the best hits of the positive
ones that show something else. All examples are taken out of the ranking, which helps by itself:
weight 0 is what there is without that.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.backbones.weights import load_weights
from engine.describer import Describer, DescriberOptions
from engine.evaluation.average_precision import ranking_average_precision
from engine.evaluation.datasets import Dataset, load_dataset
from engine.evaluation.descriptors import ImagePart, describe_files
from engine.postprocess import PCAProjection
from engine.queries.examples import combine
from engine.types import Rows, Vectors

POSITIVES = (1, 3, 5)
NEGATIVES = (0, 1, 3, 5)
WEIGHTS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.35, 0.5, 1.0)
DRAWS = 10
"""Of examples, for each group."""

Groups = list[Rows]


def groups_of(dataset: Dataset) -> Groups:
    """Rows of the database by what they show."""
    rows = {name: row for row, name in enumerate(dataset.database)}
    found = {
        tuple(sorted(rows[name] for name in query.positives | {query.name} if name in rows))
        for query in dataset.queries
    }
    return [np.array(group) for group in sorted(found)]


def described(dataset: Dataset, describer: Describer, cache_dir: Path) -> Vectors:
    """(N, D) projected, as a service would search them after a build."""
    parts = [ImagePart(dataset.path(name)) for name in dataset.database]
    (raw,) = describe_files(
        describer, [describer.pooling], parts, cache_dir=cache_dir, progress=lambda *_: None
    )
    tensor = torch.from_numpy(raw)
    vectors: Vectors = PCAProjection.fit(tensor, 512, power=0.25)(tensor).numpy()
    return vectors


def drawn(groups: Groups, positives: int) -> Iterator[tuple[Rows, Rows]]:
    """Groups, each with the rows of its positive examples."""
    random = np.random.default_rng(0)
    for _ in range(DRAWS):
        for group in groups:
            if len(group) > positives + 1:
                yield group, random.choice(group, positives, replace=False)


def measure(vectors: Vectors, groups: Groups) -> list[dict[str, Any]]:
    """Mean average precision of each number of examples and each weight."""
    rows = []
    for positives, negatives in itertools.product(POSITIVES, NEGATIVES):
        for weight in WEIGHTS if negatives else (0.0,):
            found = [
                _one(vectors, group, examples, negatives, weight)
                for group, examples in drawn(groups, positives)
            ]
            rows.append(
                {
                    "positives": positives,
                    "negatives": negatives,
                    "weight": weight,
                    "map": round(100 * float(np.mean(found)), 2),
                    "queries": len(found),
                }
            )
    return rows


def _one(vectors: Vectors, group: Rows, examples: Rows, negatives: int, weight: float) -> float:
    positive = np.zeros(len(vectors), bool)
    positive[group] = True
    query = combine(vectors[examples], vectors[:0], negative_weight=0.0)
    unlike = [row for row in np.argsort(-(vectors @ query)) if not positive[row]][:negatives]
    query = combine(vectors[examples], vectors[unlike], negative_weight=weight)
    ignored = np.zeros(len(vectors), bool)
    ignored[[*examples, *unlike]] = True
    return ranking_average_precision(np.argsort(-(vectors @ query)), positive, ignored)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--backbone", default="vgg_lite")
    parser.add_argument("--weights", default="bundled")
    parser.add_argument("--cache-dir", type=Path, default=Path.home() / ".cache" / "cooc")
    given = parser.parse_args()
    dataset = load_dataset(given.dataset)
    options = DescriberOptions(backbone=given.backbone)
    describer = Describer(options, load_weights(given.backbone, given.weights))
    vectors = described(dataset, describer, given.cache_dir)
    found = {"results": measure(vectors, groups_of(dataset))}
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
