"""`cooc train filter|whitening|distill|metric`."""
