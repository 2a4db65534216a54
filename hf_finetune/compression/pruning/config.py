"""How neurons and attention heads are chosen."""

from typing import Literal

Importance = Literal["reconstruction", "magnitude", "activation", "taylor", "fisher"]
"""reconstruction: those without which the layer's outputs change least, if the others make up for them (ZipLM,
arXiv:2302.04089). magnitude: the norms of their weights, without data. activation: those of their activations. taylor,
fisher: the change of the logits, or its square, to first order (arXiv:1905.10650, arXiv:2204.09656)."""
