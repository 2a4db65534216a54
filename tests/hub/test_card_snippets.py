"""The lines of Python on a card run as they are shown."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.cards import card_of
from helpers.hub_run import RECIPE, example_result
from huggingface_hub import ModelCard

from hf_finetune import ImageData


def snippets(card: ModelCard) -> list[str]:
    return re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)


# peft looks at a property that transformers is about to rename.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("pair", [False, True])
def test_the_snippets_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, pair: bool
) -> None:
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "A", "text", "to", "classify", "The", "first", "second", "."]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=8,
    )
    config = BertConfig(
        vocab_size=12, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, pad_token_id=0
    )
    config.id2label = {0: "negative", 1: "positive"}
    model = BertForSequenceClassification(config)
    model.save_pretrained(tmp_path / "DIR" / "model")
    tokenizer.save_pretrained(tmp_path / "DIR" / "model")
    base = tmp_path / "some" / "base"
    model.save_pretrained(base)
    get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=2)).save_pretrained(tmp_path / "DIR" / "adapter")

    monkeypatch.chdir(tmp_path)
    result = example_result() | {"base_model": "some/base", "method": "lora"}
    if pair:
        result["data"]["columns"] = {"text": "a", "text_pair": "b", "label": "label"}
    first, second = snippets(card_of(result=result))
    exec(first, {})
    assert re.search(r"'label': '(negative|positive)', 'score'", capsys.readouterr().out)
    names: dict[str, Any] = {}
    exec(second, names)
    assert names["model"].peft_config["default"].r == 2


def test_the_snippet_for_images_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    model = ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_labels=2, **sizes))
    model.save_pretrained(tmp_path / "DIR" / "model")
    ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(tmp_path / "DIR" / "model")
    Image.new("RGB", (8, 8)).save(tmp_path / "image.jpg")
    monkeypatch.chdir(tmp_path)
    recipe = replace(RECIPE, data=ImageData(path="pictures"))
    [only] = snippets(card_of(recipe, task="image-classification"))
    exec(only, {})
    assert "LABEL_" in capsys.readouterr().out
