"""Damaged and hostile checkpoints and adapters are refused in one line, or give the same values, in little time."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from helpers.checkpoints import check_config, load_classifier, load_image_processor, load_tokenizer
from helpers.damage import ADAPTER_DAMAGE, CONFIG_DAMAGE, WEIGHT_DAMAGE, config, edit_json, saved, tensors
from peft import LoraConfig, PromptTuningConfig
from safetensors.torch import load_file

from hf_finetune.errors import InputError
from hf_finetune.inference.scoring import probabilities
from hf_finetune.models.checkpoint import inspect_checkpoint
from hf_finetune.models.checkpoint_config import load_config
from hf_finetune.models.config import CheckpointLimits
from hf_finetune.models.from_config import check_buildable
from hf_finetune.models.peft.adapters import add_adapter, load_adapter, save_adapter
from hf_finetune.tasks.trained_model import load_trained

TASK = {"task": "text-classification", "labels": ["bad", "good"]}
MOST_SECONDS = 8.0
"""Of the processor."""
TEXTS = ["a good film", "bad"]


def refusal_or_values(use: Callable[[], np.ndarray]) -> str | np.ndarray:
    """Return the message of a refusal, or the values that were computed.

    Raises:
        Exception: any but an InputError.
    """
    started = time.process_time()
    try:
        return use()
    except InputError as error:
        assert "\n" not in str(error)
        return str(error)
    finally:
        assert time.process_time() - started < MOST_SECONDS


def serve(folder: Path) -> np.ndarray:
    """Take the steps of a run with a checkpoint, and return logits."""
    tokenizer = load_tokenizer(folder, max_length=32, sample=TEXTS)
    model = load_classifier(folder, **TASK).model.eval()
    with torch.no_grad():
        return model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits.numpy()


def predict(folder: Path) -> np.ndarray:
    """Take the steps of `predict`, and return probabilities."""
    rows = Dataset.from_dict({"text": TEXTS, "row": range(len(TEXTS))})
    return probabilities(load_trained(str(folder)), rows)


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


HARMLESS_CONFIG_DAMAGE = {
    # The class and the special tokens of the tokenizer are those of tokenizer.json.
    "tokenizer_config.json is an empty object",
    "tokenizer_config.json is of lists",
    "tokenizer_config.json is of nulls",
    "tokenizer's tokenizer_class nonsense",
    # The model has fewer positions, which are the limit then.
    f"model_max_length {10**40}",
    # Padding and length are those of the data.
    "tokenizer.json pads to 10^9 tokens",
    # torch counts from the end.
    "pad_token_id -5",
    # Any value is a name as text.
    "id2label {'0': None, '1': ['x']}",
    # Only id2label is read.
    "label2id [1]",
    "label2id {'a': 'x'}",
    "label2id 7",
}
"""Config damage with which a finished run predicts as without; all else is refused."""
HARMLESS_TO_TRAINING = {
    # The classes and the head are those of the data.
    "id2label {'0': 'a'}",
    "id2label {'0': 'a', '5': 'b'}",
    "architectures x",
    "architectures [3]",
    "architectures {'a': 1}",
    "architectures 3",
    # data.max_length is the limit.
    *(f"model_max_length {value}" for value in (-5, 0, 1, "x", 1.5, [1], True)),
}
"""Further config damage with which a checkpoint begins a run as without."""
HARMLESS_ADAPTER_DAMAGE = {
    # Taken from the model.
    "token_dim None",
    "modules_to_save None",
    # No field of a prompt.
    "num_layers -1",
    "num_layers x",
    # Of a checkpoint in a folder there is one revision.
    "revision nonsense",
    # peft ignores it.
    "unknown 1",
    # Nothing is looked for by it.
    "modules_to_save ['nowhere']",
    "auto_mapping {'base_model_class': 'x'}",
    "auto_mapping 3",
    "its weights have one more",
}
"""Adapter damage with which a run predicts as without; all else is refused."""


def names_what_is_damaged(message: str, damage: str, folder: Path) -> bool:
    """Return whether a message names the damaged file; where the damage is a field, its folder or file."""
    subject = damage.split()[0].removesuffix("'s")
    if subject in ("config.json", "tokenizer_config.json"):
        return subject in message and str(folder) in message
    if subject in ("tokenizer.json", "tokenizer"):
        return message.startswith(f"{folder}: its tokenizer ")
    return str(folder) in message or "config.json" in message


def test_the_harmless_are_among_the_damages() -> None:
    assert CONFIG_DAMAGE.keys() >= HARMLESS_CONFIG_DAMAGE | HARMLESS_TO_TRAINING
    assert ADAPTER_DAMAGE.keys() >= HARMLESS_ADAPTER_DAMAGE
    assert not HARMLESS_CONFIG_DAMAGE & HARMLESS_TO_TRAINING


@pytest.mark.parametrize("name", CONFIG_DAMAGE)
def test_damaged_configs(checkpoint, trained: Path, tmp_path: Path, name: str) -> None:
    """Refused, by the file's name; or the values are those without the damage."""
    for use, whole, harmless in (
        (serve, checkpoint("bert"), HARMLESS_CONFIG_DAMAGE | HARMLESS_TO_TRAINING),
        (predict, trained, HARMLESS_CONFIG_DAMAGE),
    ):
        folder = Path(shutil.copytree(whole, tmp_path / use.__name__))
        CONFIG_DAMAGE[name](folder)
        found = refusal_or_values(lambda use=use, folder=folder: use(folder))
        if name in harmless:
            assert np.array_equal(found, use(whole))
        else:
            assert isinstance(found, str) and names_what_is_damaged(found, name, folder)


@pytest.mark.parametrize("name", WEIGHT_DAMAGE)
def test_damaged_weights(checkpoint, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(checkpoint("bert"), tmp_path / "bert"))
    WEIGHT_DAMAGE[name](folder)
    found = refusal_or_values(lambda: serve(folder))
    assert isinstance(found, str) and found.startswith(str(folder))


def test_weights_that_are_nan(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained, tmp_path / "run"))
    tensors(folder, lambda all_weights: {name: tensor * float("nan") for name, tensor in all_weights.items()})
    with pytest.raises(InputError, match=rf"^{folder}: its logits of row 0 counted from 0 are not finite \(nan, nan\)"):
        predict(folder)


@pytest.mark.parametrize("name", ADAPTER_DAMAGE)
def test_damaged_adapters(prompted: Path, tmp_path: Path, name: str) -> None:
    """Refused, by the file's name; or the values are those without the damage."""
    run = Path(shutil.copytree(prompted, tmp_path / "run"))
    ADAPTER_DAMAGE[name](run / "adapter")
    found = refusal_or_values(lambda: predict(run))
    if name in HARMLESS_ADAPTER_DAMAGE:
        assert np.array_equal(found, predict(prompted))
    else:
        # The two others name the field and the checkpoint of the adapter.
        assert isinstance(found, str) and found.startswith((str(run), "data.max_length: 512, ", "/nowhere/else: "))


def test_fields_of_an_adapter_that_peft_ignores(
    checkpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    """They are logged in one line; activated LoRA, which peft does not compute here, is refused."""
    loaded = load_classifier(checkpoint("bert"), **TASK)
    save_adapter(add_adapter(loaded.model, LoraConfig(r=2), loaded.fresh), tmp_path)
    config = tmp_path / "adapter_config.json"
    edit_json(config, runtime_config={"ephemeral_gpu_offload": True}, eva_config={})
    load_adapter(load_classifier(checkpoint("bert"), **TASK).model, tmp_path)
    assert [message for message in caplog.messages if message.startswith(f"{tmp_path}: peft: `eva_config` specified")]
    assert not recwarn.list
    for tokens in (-1, [], [1]):
        edit_json(config, alora_invocation_tokens=tokens)
        with pytest.raises(InputError, match=rf"^{config}: alora_invocation_tokens: expected none"):
            load_adapter(load_classifier(checkpoint("bert"), **TASK).model, tmp_path)


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


@pytest.mark.parametrize("field", ["hidden_size", "intermediate_size"])
def test_sizes_of_a_config_are_compared_with_a_pickle(checkpoint, tmp_path: Path, field: str) -> None:
    """They were built: the limit was for safetensors only."""
    folder = Path(shutil.copytree(checkpoint("bert"), tmp_path / "bert"))
    repeated = {"bert.more": torch.zeros(1).expand(10**12)}
    saved(load_file(folder / "model.safetensors") | repeated, folder)
    whole = serve(folder)
    assert np.isfinite(whole).all()
    config(folder, **{field: 10**6})
    with pytest.raises(InputError, match=r"config.json describes .* weights, its files hold \d\d,\d\d\d; "):
        serve(folder)


def test_from_config_builds_no_network_beyond_the_limit(checkpoint) -> None:
    for changes in ({"hidden_size": 400_000}, {"intermediate_size": 10**8}, {"max_position_embeddings": 10**8}):
        with pytest.raises(InputError, match=r"model.from_config: expected 500,000,000 weights or less, got .*; raise"):
            check_config(checkpoint("bert"), task="text-classification", from_config=changes)
    local = inspect_checkpoint(checkpoint("bert"), limits=CheckpointLimits(max_parameters=1000))
    with pytest.raises(InputError, match="expected 1,000 weights or less"):
        check_buildable(load_config(local, {}), local.limits.max_parameters)


def test_another_padding_token_is_named(checkpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = Path(shutil.copytree(checkpoint("bert"), tmp_path / "bert"))
    serve(folder)
    assert "pad_token_id" not in caplog.text
    config(folder, pad_token_id=7)
    serve(folder)
    assert "pads with 0 ([PAD]), its config.json says 7" in caplog.text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": {"height": 10**6, "width": 10**6}}, "size.height: expected 1 to 1,024 pixels, got 1000000"),
        ({"size": {"shortest_edge": 10**6}}, "size.shortest_edge: expected 1 to 1,024 pixels"),
        ({"size": {"height": 0, "width": 32}}, "size.height: expected 1 to 1,024 pixels, got 0"),
        ({"do_center_crop": True, "crop_size": {"height": 10**5, "width": 9}}, "crop_size.height: expected 1 to 1,024"),
        ({"image_std": [0.5, 0.0, 0.5]}, "it makes pixels that are not finite"),
        ({"image_mean": [float("nan")] * 3}, "it makes pixels that are not finite"),
    ],
)
def test_damaged_image_processors(checkpoint, tmp_path: Path, fields: dict, message: str) -> None:
    folder = Path(shutil.copytree(checkpoint("vit"), tmp_path / "vit"))
    edit_json(folder / "preprocessor_config.json", **fields)
    with pytest.raises(InputError, match=f"{folder}: its image processor cannot be loaded: {message}"):
        load_image_processor(folder)


def test_the_numbers_of_sharing_layers_are_not_those_of_tensors(checkpoint) -> None:
    # ALBERT has one layer's tensors, whatever their number.
    assert torch.isfinite(next(load_classifier(checkpoint("albert"), **TASK).model.parameters())).all()
