"""What happens to a pooled vector: signed square root, L2, projection. Tensors in, tensors out."""

from engine.postprocess.learned import LearnedWhitening
from engine.postprocess.normalization import l2_normalize, signed_sqrt
from engine.postprocess.pca import MAX_FIT_IMAGES, PCAProjection, bounded_dim
from engine.postprocess.projection import LinearProjection
from engine.postprocess.shrinkage import ledoit_wolf_shrinkage

__all__ = [
    "MAX_FIT_IMAGES",
    "LearnedWhitening",
    "LinearProjection",
    "PCAProjection",
    "bounded_dim",
    "l2_normalize",
    "ledoit_wolf_shrinkage",
    "signed_sqrt",
]
