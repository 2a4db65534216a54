"""Checkpoints of language models: what is refused before a run begins, and what their answers depend on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.language_models import masked_model, translator
from helpers.tiny import tiny_text_checkpoint
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, MBartConfig, MBartForConditionalGeneration

from hf_finetune.augmentation.compose import Sometimes
from hf_finetune.augmentation.generative.back_translation import BackTranslate
from hf_finetune.augmentation.generative.checkpoints import load
from hf_finetune.augmentation.generative.masked_lm import SubstituteByModel
from hf_finetune.augmentation.generative.paraphraser import check_checkpoints, checkpoint_digests
from hf_finetune.augmentation.generative.sources import Source
from hf_finetune.augmentation.text.words import SwapWords
from hf_finetune.errors import InputError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(masked_model(tmp_path_factory.mktemp("masked")))


@pytest.fixture(scope="module")
def speaks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(translator(tmp_path_factory.mktemp("speaks"), ["good"]))


def change_json(path: Path, **fields) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def refused(operation: SubstituteByModel | BackTranslate) -> str:
    """What is said of it, in one line."""
    with pytest.raises(InputError) as error:
        check_checkpoints([SwapWords(), Sometimes(operation)])
    assert "\n" not in str(error.value)
    return str(error.value)


def test_checkpoints_are_checked_without_their_weights(masked: Path, speaks: Path) -> None:
    check_checkpoints([SubstituteByModel(str(masked)), BackTranslate(str(speaks), str(speaks))])
    assert load(Source(str(masked), None, "masked words"), torch.device("meta")).device.type == "meta"
    whole = load(Source(str(masked), None, "masked words"), CPU)
    assert not whole.model.training and {p.dtype for p in whole.model.parameters()} == {torch.float32}
    assert whole.positions == 64


def test_an_encoder_without_its_head_is_refused(tmp_path: Path) -> None:
    output = refused(SubstituteByModel(str(tiny_text_checkpoint(tmp_path))))
    assert "of its weights for masked words are missing (cls.predictions." in output and "saved with its head" in output


def test_other_kinds_of_models_are_refused(masked: Path, speaks: Path, tmp_path: Path) -> None:
    tiny = {"vocab_size": 99, "n_embd": 8, "n_layer": 1, "n_head": 1, "bos_token_id": 0, "eos_token_id": 0}
    GPT2LMHeadModel(GPT2Config(**tiny)).save_pretrained(tmp_path / "gpt2")
    tiny = {"vocab_size": 99, "d_model": 16, "encoder_layers": 0, "decoder_layers": 0}
    MBartForConditionalGeneration(MBartConfig(**tiny)).save_pretrained(tmp_path / "mbart")
    assert "gpt2 predicts no masked words; expected a masked" in refused(SubstituteByModel(str(tmp_path / "gpt2")))
    assert "marian predicts no masked words" in refused(SubstituteByModel(str(speaks)))
    assert "bert translates nothing; expected a sequence" in refused(BackTranslate(str(speaks), str(masked)))
    assert "mbart needs a language token" in refused(BackTranslate(str(tmp_path / "mbart"), str(speaks)))
    assert "no such folder" in refused(SubstituteByModel(str(tmp_path / "nothing")))


def without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def without_mask(folder: Path) -> None:
    change_json(folder / "tokenizer_config.json", mask_token=None)


def with_code(folder: Path) -> None:
    change_json(folder / "config.json", auto_map={"AutoModelForMaskedLM": "code.Model"})


def with_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"weight": Path("/")}, folder / "pytorch_model.bin")


def cut_off(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-100])


@pytest.mark.parametrize(
    ("damage", "output"),
    [
        (without_tokenizer, "no tokenizer in it"),
        (without_mask, "its tokenizer has no mask token"),
        (with_code, "refers to Python code (auto_map)"),
        (with_a_pickle, "pytorch_model.bin holds more than weights"),
        (cut_off, "model.safetensors is damaged or cut off"),
    ],
)
def test_damaged_checkpoints_are_refused(
    masked: Path, tmp_path: Path, damage: Callable[[Path], None], output: str
) -> None:
    folder = Path(shutil.copytree(masked, tmp_path / "copy"))
    damage(folder)
    assert output in refused(SubstituteByModel(str(folder)))


def test_missing_sentencepiece_names_what_to_install(speaks: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(speaks, tmp_path / "copy"))
    (folder / "tokenizer.json").unlink()
    for name in ("source.spm", "target.spm"):
        (folder / name).write_bytes(b"no model")
    (folder / "vocab.json").write_text("{}")
    change_json(folder / "tokenizer_config.json", tokenizer_class="MarianTokenizer")
    assert "pip install sentencepiece" in refused(BackTranslate(str(folder), str(speaks)))


def test_a_translator_without_end_token_is_refused(speaks: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(speaks, tmp_path / "copy"))
    for name in ("config.json", "generation_config.json"):
        change_json(folder / name, eos_token_id=None)
    assert "no token ends its translations; set eos_token_id" in refused(BackTranslate(str(speaks), str(folder)))


def test_digest_depends_on_weights_config_and_tokenizer(masked: Path, speaks: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(masked, tmp_path / "copy"))
    operation = SubstituteByModel(str(folder))

    def digest() -> list[str]:
        return checkpoint_digests([operation])

    actual = [digest()]
    assert actual[0] == checkpoint_digests([SubstituteByModel(str(masked))]), "wherever it lies"
    tensors = load_file(folder / "model.safetensors")
    tensors["cls.predictions.bias"] = tensors["cls.predictions.bias"] + 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    actual.append(digest())
    change_json(folder / "config.json", layer_norm_eps=0.5)
    actual.append(digest())
    change_json(folder / "tokenizer_config.json", model_max_length=7)
    actual.append(digest())
    assert len({tuple(d) for d in actual}) == 4
    assert len(checkpoint_digests([BackTranslate(str(speaks), str(masked)), SwapWords()])) == 2
