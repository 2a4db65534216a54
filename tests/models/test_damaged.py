"""Damaged and hostile checkpoints and adapters are refused in one line, or serve; nothing else, and in little time."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import load_classifier, load_tokenizer
from helpers.damage import ADAPTER_DAMAGE, CONFIG_DAMAGE, WEIGHT_DAMAGE, config
from peft import PromptTuningConfig

from hf_finetune.errors import InputError
from hf_finetune.models.checkpoint import inspect_checkpoint
from hf_finetune.models.checkpoint_config import load_config
from hf_finetune.models.peft.adapters import add_adapter, save_adapter
from hf_finetune.training.classifier import load_trained

TASK = {"task": "text-classification", "labels": ["bad", "good"]}
MOST_SECONDS = 8.0
"""Of the processor."""
TEXTS = ["a good film", "bad"]


def one_line_or_served(use: Callable[[], None]) -> str:
    """Return the message of a refusal; empty: there is none.

    Raises:
        Exception: any but an InputError.
    """
    started = time.process_time()
    try:
        use()
    except InputError as error:
        assert "\n" not in str(error)
        return str(error)
    finally:
        assert time.process_time() - started < MOST_SECONDS
    return ""


def serve(folder: Path) -> None:
    """Take the steps of a run with a checkpoint."""
    tokenizer = load_tokenizer(folder, max_length=32, sample=TEXTS)
    model = load_classifier(folder, **TASK).model
    model(**tokenizer(TEXTS, padding=True, return_tensors="pt"))


def predict(folder: Path) -> None:
    """Take the steps of `predict`."""
    classifier = load_trained(str(folder))
    classifier.model(**classifier.inputs.tokenizer(TEXTS, padding=True, return_tensors="pt"))


@pytest.fixture(scope="session")
def trained(checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of a finished run."""
    folder = tmp_path_factory.mktemp("trained")
    load_classifier(checkpoint("bert"), **TASK).model.save_pretrained(folder)
    load_tokenizer(checkpoint("bert"), max_length=32, sample=TEXTS).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def prompted(checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has only an adapter."""
    run = tmp_path_factory.mktemp("prompted")
    loaded = load_classifier(checkpoint("bert"), **TASK)
    loaded.model.config.save_pretrained(run / "adapter")
    save_adapter(add_adapter(loaded.model, PromptTuningConfig(num_virtual_tokens=4), loaded.fresh), run / "adapter")
    load_tokenizer(checkpoint("bert"), max_length=32, sample=TEXTS).save_pretrained(run / "adapter")
    return run


def test_undamaged(trained: Path, prompted: Path) -> None:
    assert one_line_or_served(lambda: predict(trained)) == ""
    assert one_line_or_served(lambda: predict(prompted)) == ""


@pytest.mark.parametrize("name", CONFIG_DAMAGE)
def test_damaged_configs(checkpoint, trained: Path, tmp_path: Path, name: str) -> None:
    for use, whole in ((serve, checkpoint("bert")), (predict, trained)):
        folder = Path(shutil.copytree(whole, tmp_path / use.__name__))
        CONFIG_DAMAGE[name](folder)
        one_line_or_served(lambda use=use, folder=folder: use(folder))


@pytest.mark.parametrize("name", WEIGHT_DAMAGE)
def test_damaged_weights(checkpoint, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(checkpoint("bert"), tmp_path / "bert"))
    WEIGHT_DAMAGE[name](folder)
    assert one_line_or_served(lambda: serve(folder)).startswith(str(folder))


@pytest.mark.parametrize("name", ADAPTER_DAMAGE)
def test_damaged_adapters(prompted: Path, tmp_path: Path, name: str) -> None:
    run = Path(shutil.copytree(prompted, tmp_path / "run"))
    ADAPTER_DAMAGE[name](run / "adapter")
    one_line_or_served(lambda: predict(run))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_hidden_layers": 10**6}, "num_hidden_layers: 1,000,000 layers, but its files hold .* tensors"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: expected 1 or more, got 0"),
        ({"hidden_size": 10**6}, "config.json describes .* weights, its files hold .*; the two do not belong together"),
        ({"intermediate_size": 10**9}, "config.json describes .* weights"),
        ({"vocab_size": 10**9}, "its tokenizer has .* tokens, the model 1000000000"),
        ({"num_attention_heads": -4}, "num_attention_heads: expected 1 or more, got -4"),
        ({"num_labels": 10**9}, "num_labels: expected 100,000 classes or less, got 1,000,000,000"),
        ({"pad_token_id": 10**6}, "config.json cannot be used: Padding_idx must be within num_embeddings"),
    ],
)
def test_sizes_of_a_config(checkpoint, tmp_path: Path, fields: dict, message: str) -> None:
    folder = Path(shutil.copytree(checkpoint("bert"), tmp_path / "bert"))
    config(folder, **fields)
    with pytest.raises(InputError, match=message):
        serve(folder)


def test_the_user_can_raise_the_number_of_layers(checkpoint) -> None:
    changes = {"num_hidden_layers": 7}
    local = inspect_checkpoint(checkpoint("bert"), max_layers=6)
    with pytest.raises(
        InputError, match=r"num_hidden_layers: expected 6 layers or less, got 7; raise model.max_layers"
    ):
        load_config(local, changes)
    assert load_config(inspect_checkpoint(checkpoint("bert"), max_layers=7), changes).num_hidden_layers == 7


def test_the_numbers_of_sharing_layers_are_not_those_of_tensors(checkpoint) -> None:
    # ALBERT has one layer's tensors, whatever their number.
    assert torch.isfinite(next(load_classifier(checkpoint("albert"), **TASK).model.parameters())).all()
