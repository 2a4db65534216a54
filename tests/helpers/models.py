"""Logits of models, models whose weights all matter, and classifiers that are not trained."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    ViTImageProcessor,
)

from hf_finetune.tasks.trained_model import TrainedModel, load_trained


def logits(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the logits of a batch, in the mode of the model."""
    with torch.no_grad():
        return model(**batch).logits


def randomized(model: PreTrainedModel) -> PreTrainedModel:
    """Add noise to norms, biases and layer scales, which start as ones and zeros."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def classifier_on(
    encoder: str | Path, names: Sequence[str], change: Callable[[PreTrainedModel], object] = lambda model: None
) -> TrainedModel:
    """Return a classifier with these labels and random weights in its last layer, saved as model/ beside its encoder.

    Args:
        change: changes its weights before they are saved.
    """
    is_image, folder = (Path(encoder) / "preprocessor_config.json").exists(), Path(encoder).with_name("model")
    labels = dict(enumerate(names))
    config = AutoConfig.from_pretrained(encoder, id2label=labels, label2id={name: i for i, name in labels.items()})
    torch.manual_seed(0)
    auto = AutoModelForImageClassification if is_image else AutoModelForSequenceClassification
    model = auto.from_pretrained(encoder, config=config)
    change(model)
    model.save_pretrained(folder)
    (ViTImageProcessor if is_image else AutoTokenizer).from_pretrained(encoder).save_pretrained(folder)
    return load_trained(str(folder))
