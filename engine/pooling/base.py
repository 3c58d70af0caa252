"""What all poolings have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from torch import Tensor, nn

from engine.pooling.masks import MASKS, apply_mask

Option = float | int | str | bool


class Pooling(nn.Module):
    """A feature map (B, C, H, W) to a descriptor (B, dim), not yet rooted or normalised.

    A mask weighs positions: the activations that are pooled are multiplied by it, once. All that
    is derived from them besides (co-occurrences, CroW's weights) comes from the unmasked map, as a
    threshold must not depend on where in the image something lies.

    Attributes:
        dim: length of the descriptor.
        options: parameters that enter the fingerprint; those that most poolings share are
            in it only where they are not the default.
        signed_root: whether the signed square root comes before L2; by default for all
            second-order poolings.
        unfitted: True while the pooling still needs `fit`.
    """

    dim: int
    options: Mapping[str, Option]
    signed_root: bool
    second_order = False
    unfitted = False

    def __init__(self, channels: int, *, mask: str = "none", root: bool | None = None) -> None:
        super().__init__()
        if mask not in MASKS:
            raise ValueError(f"mask is {mask!r}; choose from {', '.join(MASKS)}")
        self.channels = channels
        self.dim = channels
        self.mask = mask
        self.signed_root = self.second_order if root is None else root
        self.options = {}
        if mask != "none":
            self.options["mask"] = mask
        if self.signed_root != self.second_order:
            self.options["root"] = self.signed_root

    @property
    def kind(self) -> str:
        """What it is, whatever its options."""
        return type(self).__name__

    def forward(self, features: Tensor) -> Tensor:
        return self.pool(apply_mask(features, self.mask), features)

    def pool(self, masked: Tensor, features: Tensor) -> Tensor:
        """(B, dim) of the masked activations; `features` are the unmasked ones."""
        raise NotImplementedError

    def shares(self, features: Tensor, target: Tensor) -> Tensor:
        """How much each position adds to <forward(features), target>.

        Args:
            features: (B, C, H, W).
            target: (B, dim).

        Returns: (B, H, W), whose sum over positions is that product.
        """
        return self.share(apply_mask(features, self.mask), features, target)

    def share(self, masked: Tensor, features: Tensor, target: Tensor) -> Tensor:
        """As `shares`, of the masked activations."""
        raise NotImplementedError

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` of an equal pooling gave. Raises ValueError."""
        try:
            self.load_state_dict(dict(state))
        except RuntimeError as error:
            raise ValueError(f"these are not the tensors of this pooling: {error}") from error

    def digest(self) -> str:
        """SHA-256 over the buffers (the hash functions), as 64 hexadecimal digits."""
        content = hashlib.sha256()
        for name, values in sorted(self.state_dict().items()):
            content.update(f"{name}:{values.dtype}:{tuple(values.shape)}".encode())
            content.update(values.cpu().numpy().tobytes())
        return content.hexdigest()
