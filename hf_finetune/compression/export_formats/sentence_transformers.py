"""sentence-transformers: the encoder of a classifier with its pooling, for search.

Legend: N rows, D features.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel
from torch import nn

from hf_finetune.compression.config import ExportOptions
from hf_finetune.compression.export_formats.base import EXAMPLES, ExportFormat
from hf_finetune.compression.gate import example_outputs
from hf_finetune.compression.tracing import in_dtype, quiet_export
from hf_finetune.data.inputs import Rows, TextInputs, columns_of
from hf_finetune.errors import GateError, InputError
from hf_finetune.models.families import stock_head, width_of
from hf_finetune.models.heads.custom import CustomHeadClassifier
from hf_finetune.models.modules import classification_layers, encoder, is_token_classifier, submodule
from hf_finetune.pipeline.parity import TOLERANCE, plain_settings
from hf_finetune.tasks.trained_model import TrainedModel
from hf_finetune.training.precision import exact_float32
from hf_finetune.training.warm_start import head_features
from hf_finetune.utils.messages import install_command

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

POOLINGS = ("cls", "mean", "max")
ACTIVATIONS = {"tanh": nn.Tanh, "gelu": nn.GELU, "relu": nn.ReLU}


@dataclass(frozen=True)
class Embedding:
    """How a classifier makes of hidden states what its classification layer reads."""

    pooling: str
    dense: nn.Linear | None = None
    """Hidden layer of the head."""
    activation: str = ""


class SentenceEncoder(ExportFormat):
    """A folder of SentenceTransformer, whose embeddings are those of `Classifier.embed`."""

    name = "sentence-transformers"
    numbers = ("float32",)
    files = ("model.safetensors",)
    packages = ("torch", "transformers", "sentence-transformers")
    extras = ("sentence-transformers",)
    is_served = False

    def write(self, classifier: TrainedModel, rows: Dataset, folder: Path, options: ExportOptions) -> None:
        """See `ExportFormat.write`."""
        merged = replace(classifier, model=in_dtype(classifier.model, torch.float32))
        if (why := why_no_text_encoder(merged)) is not None:
            raise InputError(f"{classifier.name}: {why}; expected --format onnx, openvino or torch")
        with quiet_export():
            sentence_transformer(merged).save(str(folder), create_model_card=False)

    def program(self, classifier: TrainedModel) -> str:
        """See `ExportFormat.program`."""
        return (EXAMPLES / "sentences.py").read_text(encoding="utf-8")

    def verify(self, classifier: TrainedModel, folder: Path, rows: Dataset, options: ExportOptions) -> dict[str, Any]:
        """Compare the embeddings of example.py, in a fresh process, with those of the classifier."""
        encoded = classifier.inputs.encode(rows)
        layers = classification_layers(classifier.model)[:1]
        batches = Rows(encoded, columns_of(classifier.inputs, labels=False))
        with exact_float32():
            expected_ND = head_features(classifier.model, layers, batches, classifier.inputs.collate)[0]
        found = example_outputs(folder, list(rows["text"]), "embeddings")
        if isinstance(found, str):
            raise GateError(f"export: a fresh process cannot run example.py: {found}")
        difference = float(np.abs(np.stack(found) - expected_ND).max())
        tolerance = TOLERANCE * float(np.abs(expected_ND).max())
        # Not `difference > tolerance`: NaN must fail.
        if not difference <= tolerance:
            raise GateError(
                f"export: the embeddings of sentence-transformers differ by {difference:.3g} on {len(rows)} rows; at "
                f"most {tolerance:.3g} are allowed; use Classifier.embed"
            )
        compared = {"rows": len(rows), "max_abs_difference": difference, "tolerance": tolerance}
        return {"gate": {"compared": "embeddings", **compared}}


def why_no_text_encoder(classifier: TrainedModel) -> str | None:
    """Return why a SentenceTransformer cannot make the embeddings of a classifier. None: it can.

    Args:
        classifier: with merged adapters, if they can be.
    """
    model, inputs = classifier.model, classifier.inputs
    if not isinstance(inputs, TextInputs) or is_token_classifier(model):
        return "a SentenceTransformer embeds whole texts, not images or words"
    if classifier.pairs:
        return "a SentenceTransformer embeds single texts, and this model reads pairs"
    if plain_settings(inputs) is not None:
        return "a SentenceTransformer reads the beginning of a text alone, and this model long texts in another way"
    if isinstance(model, PeftModel):
        return "a SentenceTransformer has no prompts or prefixes, and the adapter of this model cannot be merged"
    return None if embedding_of(model) else "a SentenceTransformer has no pooling and layer like those of its head"


def embedding_of(model: nn.Module) -> Embedding | None:
    """Return how a classifier pools. None: as no SentenceTransformer does."""
    if isinstance(model, CustomHeadClassifier):
        head, spec = model.head, model.spec
        if model.token_network or model.chunk_pooling or spec.last_layers > 1 or spec.kind not in POOLINGS:
            return None
        return Embedding(spec.kind, head.dense, head.activation) if head.has_hidden else Embedding(spec.kind)
    stock = stock_head(model.config)  # type: ignore[arg-type]
    if stock is None or stock.kind != "mlp" or stock.activation not in ACTIVATIONS:
        return None
    assert stock.pooling is not None, "an mlp reads one pooling"
    return Embedding(stock.pooling, submodule(model, stock.dense, nn.Linear), stock.activation)


def sentence_transformer(classifier: TrainedModel) -> SentenceTransformer:
    """Return the encoder, the pooling and the hidden layer of a classifier with merged adapters, if it has any.

    Raises:
        InputError: the package is missing.
    """
    try:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
    except ImportError as error:
        raise InputError(
            f"export: it needs the package {error.name}; {install_command('sentence-transformers')}"
        ) from None
    model, inputs = classifier.model, classifier.inputs
    assert isinstance(inputs, TextInputs), "images were refused"
    embedding = embedding_of(model)
    assert embedding is not None, "other heads were refused"
    with tempfile.TemporaryDirectory(prefix="hf_finetune_export_") as name, torch.random.fork_rng(devices=[]):
        encoder(model).save_pretrained(name)
        inputs.save(Path(name))
        torch.manual_seed(0)  # of a pooler that no one reads, which a custom head has removed
        modules: list[nn.Module] = [Transformer(name, max_seq_length=inputs.max_length)]
    modules.append(Pooling(width_of(encoder(model).config), embedding.pooling))
    if (dense := embedding.dense) is not None:
        activation = ACTIVATIONS[embedding.activation]()
        layer = Dense(dense.in_features, dense.out_features, activation_function=activation)
        layer.linear.load_state_dict(dense.state_dict())
        modules.append(layer)
    return SentenceTransformer(modules=modules, device="cpu")
