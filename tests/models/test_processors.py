"""Loading tokenizers and image processors, and refusing unsuitable ones."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.checkpoints import load_image_processor, load_tokenizer, refusal
from helpers.tiny import TEXT_FAMILIES, WORDS, tiny_image_checkpoint, tiny_text_checkpoint
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BitImageProcessor,
    ConvNextImageProcessor,
    EfficientNetImageProcessor,
    PoolFormerImageProcessor,
    ViTImageProcessor,
)

from hf_finetune.models import processors
from hf_finetune.models.processors import position_limit


def edit(path: Path, **entries) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


# --- tokenizers

SAMPLE = ["the movie was great", "a boring plot"]


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_tokenizer_and_model_fit(family: str, checkpoint, classifier, tmp_path: Path):
    tokenizer = load_tokenizer(checkpoint(family), max_length=16, sample=SAMPLE)
    batch = tokenizer(SAMPLE, ["so good", "so bad"], padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        assert classifier(family).model(**batch).logits.shape == (2, 3)
    tokenizer.save_pretrained(tmp_path)
    stored = AutoTokenizer.from_pretrained(tmp_path)
    assert stored.model_max_length == 16
    assert len(stored("so " * 50, truncation=True)["input_ids"]) == 16


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_longest_input(family: str, checkpoint, classifier, caplog: pytest.LogCaptureFixture):
    """The limit is the end of the position table: with one more token the model fails."""
    limited = family not in ("deberta-v2", "modernbert")
    limit = position_limit(AutoConfig.from_pretrained(checkpoint(family)))
    assert limit == (64 if limited else None)
    load_tokenizer(checkpoint(family), max_length=64, sample=SAMPLE)
    assert caplog.messages == []
    model = classifier(family).model.eval()
    with torch.no_grad():
        model(input_ids=torch.full((1, 64), 9))
        if limited:
            with pytest.raises((IndexError, RuntimeError)):
                model(input_ids=torch.full((1, 65), 9))
            message = refusal(lambda: load_tokenizer(checkpoint(family), max_length=65, sample=SAMPLE))
            assert message.startswith("data.max_length: 65") and "64 tokens" in message
        else:
            model(input_ids=torch.full((1, 65), 9))
            load_tokenizer(checkpoint(family), max_length=65, sample=SAMPLE)
            assert "more than the 64" in caplog.text


def without_tokenizer(folder: Path) -> Path:
    for path in folder.glob("*token*"):
        path.unlink()
    return folder


def test_blank_tokenizers_are_refused(folder: Path):
    """transformers returns a tokenizer of five special tokens here."""
    without_tokenizer(folder)
    assert len(AutoTokenizer.from_pretrained(folder)) == 5
    assert "no tokenizer in it" in refusal(lambda: load_tokenizer(folder, max_length=16, sample=SAMPLE))
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    assert "has 5 tokens, the model" in refusal(lambda: load_tokenizer(folder, max_length=16, sample=SAMPLE))
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()]))
    assert len(load_tokenizer(folder, max_length=16, sample=SAMPLE)) == 5 + len(WORDS.split())


def test_unknown_tokens(folder: Path, checkpoint, caplog: pytest.LogCaptureFixture):
    foreign = ["кино", "это", "хорошо", "плохо"]
    load_tokenizer(folder, max_length=16, sample=["the movie", "it was good", *foreign[:1]])
    assert caplog.messages == []
    # Five known words, two unknown ones.
    load_tokenizer(folder, max_length=16, sample=["the movie", "it was good", *foreign[:2]])
    assert "does not know 29%" in caplog.text
    assert "does not know 100%" in refusal(lambda: load_tokenizer(folder, max_length=16, sample=foreign))
    load_tokenizer(folder, max_length=16, sample=["", "  "])


def test_tokenizer_of_a_larger_model(folder: Path, tmp_path: Path):
    small = tiny_text_checkpoint(tmp_path / "small", vocab_size=100)
    assert "returns token id" in refusal(lambda: load_tokenizer(small, max_length=16, sample=SAMPLE))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", ["{not json", "{}"])
def test_broken_tokenizer_files(folder: Path, name: str, content: str):
    (folder / name).write_text(content)
    if (name, content) == ("tokenizer_config.json", "{}"):
        load_tokenizer(folder, max_length=16, sample=SAMPLE)
    else:
        assert refusal(lambda: load_tokenizer(folder, max_length=16, sample=SAMPLE)).startswith(str(folder))


@pytest.mark.parametrize(("family", "name"), [("deberta-v2", "spm.model"), ("albert", "spiece.model")])
def test_sentencepiece_remedy(family: str, name: str, checkpoint, tmp_path: Path):
    copied = without_tokenizer(Path(shutil.copytree(checkpoint(family), tmp_path / family)))
    (copied / name).write_bytes(b"no sentencepiece model")
    message = refusal(lambda: load_tokenizer(copied, max_length=16, sample=SAMPLE))
    assert "pip install sentencepiece protobuf" in message


def test_chat_templates_are_dropped(folder: Path, tmp_path: Path):
    """The name of one of them would write outside the folder."""
    template = [{"name": "default", "template": "x"}, {"name": "../../evil", "template": "x"}]
    edit(folder / "tokenizer_config.json", chat_template=template)
    tokenizer = load_tokenizer(folder, max_length=16, sample=SAMPLE)
    tokenizer.save_pretrained(tmp_path / "out")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    assert not list(tmp_path.rglob("evil*"))


# --- image processors


def test_image_processor(checkpoint):
    processor = load_image_processor(checkpoint("vit"))
    pixels = processor(np.full((20, 30, 3), 255, dtype=np.uint8), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 32, 32)
    # ViT's own mean and deviation are .5: white is (1 - .5) / .5.
    assert torch.allclose(pixels, torch.ones(()))


@pytest.mark.parametrize(
    ("processor", "size"),
    [
        (ViTImageProcessor(size={"height": 32, "width": 32}), {"height": 64, "width": 64}),
        (ConvNextImageProcessor(size={"shortest_edge": 32}), {"shortest_edge": 64}),
        (EfficientNetImageProcessor(size={"height": 32, "width": 32}), {"height": 64, "width": 64}),
        # DINOv2: the center 224 of 256 pixels, resized the center 64 of 73.
        (
            BitImageProcessor(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}),
            {"shortest_edge": 73},
        ),
        (PoolFormerImageProcessor(), {"shortest_edge": 64}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_image_processor_of_another_size(processor, size: dict[str, int], tmp_path: Path, checkpoint):
    """Images have the requested size for every kind of processor, also after a reload."""
    folder = Path(shutil.copytree(checkpoint("vit"), tmp_path / "copy"))
    processor.save_pretrained(folder)
    before, after = load_image_processor(folder), load_image_processor(folder, image_size=64)
    assert before.to_dict()["size"] != size == after.to_dict()["size"]
    image = np.full((90, 90, 3), 255, dtype=np.uint8)
    assert after(image, return_tensors="pt")["pixel_values"].shape == (1, 3, 64, 64)
    after.save_pretrained(folder)
    assert load_image_processor(folder).to_dict() == after.to_dict()


def test_missing_processor_defaults_to_imagenet_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder = tiny_image_checkpoint(tmp_path, "vit", image_size=48)
    (folder / "preprocessor_config.json").unlink()
    processor = load_image_processor(folder)
    assert "no preprocessor_config.json" in caplog.text and "48x48" in caplog.text
    pixels = processor(np.full((20, 30, 3), 255, dtype=np.uint8), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 48, 48)
    expected = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(pixels[0, :, 0, 0], expected)


@pytest.mark.parametrize("content", ["{not json", '{"image_processor_type": "NoSuchProcessor"}'])
def test_broken_processor(tmp_path: Path, content: str):
    folder = tiny_image_checkpoint(tmp_path, "vit")
    (folder / "preprocessor_config.json").write_text(content)
    assert refusal(lambda: load_image_processor(folder)).startswith(str(folder))


def test_side_that_is_no_number_is_refused(tmp_path: Path):
    """A config with an image_size of two numbers can cause such a file."""
    folder = tiny_image_checkpoint(tmp_path, "vit")
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"size": {"height": [32, 32], "width": 32}}))
    expected = f"{folder}: its image processor cannot be loaded: size.height: expected 1 to 1,024 pixels, got [32, 32]"
    assert refusal(lambda: load_image_processor(folder)) == expected


def test_two_numbers_in_the_config_are_height_and_width(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder = tiny_image_checkpoint(tmp_path, "vit")
    (folder / "preprocessor_config.json").unlink()
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"image_size": [32, 48]}))
    pixels = load_image_processor(folder)(np.zeros((20, 30, 3), dtype=np.uint8), return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 3, 32, 48) and "32x48" in caplog.text


def test_images_without_torchvision(checkpoint, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(processors, "find_spec", lambda name: None)
    assert "pip install 'hf_finetune[vision]'" in refusal(lambda: load_image_processor(checkpoint("vit")))
