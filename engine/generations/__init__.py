"""Generations of the index on disk: made, published, loaded, verified; a cache of the catalog."""

from engine.generations.build import MIN_FIT_IMAGES, BuildPlan, Progress, Reporter, project
from engine.generations.generations import Generation, Generations
from engine.generations.manifest import Manifest

__all__ = [
    "MIN_FIT_IMAGES",
    "BuildPlan",
    "Generation",
    "Generations",
    "Manifest",
    "Progress",
    "Reporter",
    "project",
]
