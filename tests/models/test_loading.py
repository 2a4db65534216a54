"""Loading classifiers, and refusing unsuitable checkpoints."""

import json
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import load_classifier, refusal
from helpers.tiny import IMAGE_FAMILIES, TEXT_FAMILIES, tiny_text_checkpoint
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    GPT2Config,
    GPT2Model,
)

from hf_finetune.models.freezing import freeze_batch_norm
from hf_finetune.models.modules import classification_layer
from hf_finetune.models.surgery.reinit import ReinitTopLayers

FAMILIES = TEXT_FAMILIES + IMAGE_FAMILIES
FRESH = {
    "roberta": ("classifier.dense", "classifier.out_proj"),
    "electra": ("classifier.dense", "classifier.out_proj"),
    "mpnet": ("classifier.dense", "classifier.out_proj"),
    "distilbert": ("pre_classifier", "classifier"),
    "deberta-v2": ("pooler.dense", "classifier"),
    "modernbert": ("head.dense", "head.norm", "classifier"),
    "resnet": ("classifier.1",),
    "poolformer": ("norm", "classifier"),
}
TEXT = {"task": "text-classification", "labels": ["a", "b", "c"]}
IMAGE = {"task": "image-classification", "labels": ["a", "b", "c"]}


def edit(path: Path, **entries) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def rewrite(folder: Path, change) -> None:
    """Apply `change` to the saved weights."""
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


# --- classifiers


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family: str, classifier, inputs, checkpoint, tmp_path: Path, capfd: pytest.CaptureFixture):
    checkpoint(family)
    capfd.readouterr()
    loaded = classifier(family)
    assert capfd.readouterr().err == ""
    model = loaded.model
    assert loaded.fresh == FRESH.get(family, ("classifier",))
    assert all(p.dtype == torch.float32 for p in model.parameters())
    with torch.no_grad():
        assert model.eval()(**inputs(family)).logits.shape == (2, 3)
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.id2label == {0: "bad", 1: "good", 2: "so-so"} and config.label2id["so-so"] == 2
    assert config.problem_type == "single_label_classification"
    assert config.architectures == [type(model).__name__]
    assert str(checkpoint(family)) not in (tmp_path / "config.json").read_text()


def test_notes_say_what_is_new_and_what_is_unused(checkpoint):
    loaded = load_classifier(checkpoint("vit"), **IMAGE, seed=7)
    assert any("classifier" in n and "seed 7" in n for n in loaded.notes)
    assert any("pooler" in n and "not used" in n for n in loaded.notes)


def test_half_precision_becomes_float32(folder: Path):
    rewrite(folder, lambda weights: {k: v.bfloat16() for k, v in weights.items()})
    edit(folder / "config.json", dtype="bfloat16")
    model = load_classifier(folder, **TEXT).model
    stored = load_file(folder / "model.safetensors")
    assert model.dtype == torch.float32 and model.config.dtype == torch.float32
    key = "embeddings.word_embeddings.weight"
    assert torch.equal(model.bert.get_parameter(key), stored[key].float())


@pytest.mark.parametrize("family", ["roberta", "vit"])
def test_the_seed_decides_the_head_and_nothing_else(family: str, classifier):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    first = classifier(family, seed=5).model.state_dict()
    assert torch.equal(torch.rand(3), expected)
    torch.rand(100)
    second, other = classifier(family, seed=5).model.state_dict(), classifier(family, seed=6).model.state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)
    different = {k for k in first if not torch.equal(first[k], other[k])}
    assert different and all(k.startswith("classifier") for k in different)


def test_head_in_another_order_is_matched_by_name(classifier, inputs, tmp_path: Path):
    """Three classes are rotated, so that the permutation is not its own inverse."""
    old = classifier("roberta", labels=["x", "y", "z"]).model
    with torch.no_grad():
        old.classifier.out_proj.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    old.save_pretrained(tmp_path)
    turned = load_classifier(tmp_path, task="text-classification", labels=["y", "z", "x"], seed=9)
    assert turned.fresh == () and turned.model.config.id2label == {0: "y", 1: "z", 2: "x"}
    assert any("a head for these 3 classes, in another order than the data's; they are" in n for n in turned.notes)
    with torch.no_grad():
        first, second = (model.eval()(**inputs("roberta")).logits for model in (old, turned.model))
    assert torch.equal(second, first[:, [1, 2, 0]])
    dropped = load_classifier(tmp_path, task="text-classification", labels=["y", "z", "x"], seed=9, keep_head=False)
    assert dropped.fresh == ("classifier.out_proj",)


@pytest.mark.parametrize(("family", "layer"), [("bert", "classifier"), ("roberta", "classifier.out_proj")])
def test_head_for_other_classes_is_replaced(family: str, layer: str, classifier, tmp_path: Path):
    """The number of classes is the same, but their names differ."""
    old = classifier(family, labels=["x", "y"]).model
    old.save_pretrained(tmp_path)
    labels = ["spam", "ham"]
    first, second = (load_classifier(tmp_path, task="text-classification", labels=labels, seed=9) for _ in range(2))
    assert first.fresh == (layer,) and any("replaced" in n for n in first.notes)
    weight = first.model.get_parameter(f"{layer}.weight")
    assert not torch.allclose(weight, old.get_parameter(f"{layer}.weight"), atol=1e-3)
    assert torch.equal(weight, second.model.get_parameter(f"{layer}.weight"))


def test_head_for_a_number_is_kept(classifier, tmp_path: Path):
    classifier("bert", labels=["score"], problem_type="regression").model.save_pretrained(tmp_path)
    kept = load_classifier(tmp_path, task="text-classification", labels=["score"], seed=9, problem_type="regression")
    assert any(n.endswith("it has a head for this target") for n in kept.notes)


def test_the_head_of_another_task_is_replaced(classifier, tmp_path: Path):
    """Tags of the same names are no classes, and one output without a problem type is a number."""
    classifier("bert", labels=["x", "y"], problem_type="multi_label_classification").model.save_pretrained(tmp_path)
    loaded = load_classifier(tmp_path, task="text-classification", labels=["x", "y"], seed=9)
    assert loaded.fresh == ("classifier",)
    (note,) = (note for note in loaded.notes if "another task" in note)
    assert note.endswith("trained for another task, 2 tags (x, y): its encoder is used, and its head is replaced")
    score = load_classifier(tmp_path, task="text-classification", labels=["score"], seed=9, problem_type="regression")
    assert any("trained for another task, 2 tags (x, y)" in note for note in score.notes)


def test_head_of_another_size_is_replaced(classifier, tmp_path: Path):
    loaded = classifier("bert", labels=["x", "y"])
    loaded.model.save_pretrained(tmp_path)
    kept = load_classifier(tmp_path, task="text-classification", labels=["x", "y"], seed=9)
    assert kept.fresh == () and any("has a head for these 2 classes" in n for n in kept.notes)
    assert torch.equal(kept.model.classifier.weight, loaded.model.classifier.weight)
    dropped = load_classifier(tmp_path, task="text-classification", labels=["x", "y"], seed=9, keep_head=False)
    assert dropped.fresh == ("classifier",) and not any("has a head" in n for n in dropped.notes)
    assert any("its head for 2 classes is replaced: only the encoder is pretrained" in n for n in dropped.notes)
    assert not torch.allclose(dropped.model.classifier.weight, loaded.model.classifier.weight, atol=1e-3)
    replaced = load_classifier(tmp_path, **TEXT, seed=9)
    assert replaced.fresh == ("classifier",) and any("replaced" in n for n in replaced.notes)
    assert replaced.model.classifier.weight.shape == (3, 32)
    assert torch.isfinite(replaced.model.classifier.weight).all()
    assert torch.equal(
        replaced.model.classifier.weight, load_classifier(tmp_path, **TEXT, seed=9).model.classifier.weight
    )


def test_missing_pooler_is_fresh(folder: Path):
    rewrite(folder, lambda weights: {k: v for k, v in weights.items() if "pooler" not in k})
    assert load_classifier(folder, **TEXT).fresh == ("bert.pooler.dense", "classifier")


def test_missing_encoder_weight_warns(folder: Path, caplog: pytest.LogCaptureFixture):
    gone = "encoder.layer.1.output.dense.weight"
    rewrite(folder, lambda weights: {k: v for k, v in weights.items() if k != gone})
    loaded = load_classifier(folder, **TEXT)
    assert loaded.fresh == ("bert.encoder.layer.1.output.dense", "classifier")
    assert any(r.levelname == "WARNING" and f"bert.{gone}" in r.message for r in caplog.records)


def test_weights_of_another_model(folder: Path):
    encoder = load_file(folder / "model.safetensors")
    rewrite(folder, lambda weights: {f"h.{i}.attn.weight": v for i, v in enumerate(weights.values())})
    assert "none of its weights fits BertForSequenceClassification" in refusal(lambda: load_classifier(folder, **TEXT))
    rewrite(folder, lambda _: {k: v for k, v in encoder.items() if "embeddings" in k})
    assert "do not belong together" in refusal(lambda: load_classifier(folder, **TEXT))
    rewrite(folder, lambda _: encoder)
    edit(folder / "config.json", vocab_size=500)
    rows = len(encoder["embeddings.word_embeddings.weight"])
    expected = f"word_embeddings.weight has the shape [{rows}, 32], its config.json says [500, 32]"
    assert expected in refusal(lambda: load_classifier(folder, **TEXT))


def test_other_kinds_of_model(checkpoint, tmp_path: Path):
    assert "bert is a text model" in refusal(lambda: load_classifier(checkpoint("bert"), **IMAGE))
    assert "vit is an image model" in refusal(lambda: load_classifier(checkpoint("vit"), **TEXT))
    GPT2Model(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=20, n_positions=8)).save_pretrained(tmp_path)
    assert "gpt2 generates text" in refusal(lambda: load_classifier(tmp_path, **TEXT))


def test_config_of_a_wrong_type(folder: Path):
    edit(folder / "config.json", hidden_size="wide")
    assert "config.json" in refusal(lambda: load_classifier(folder, **TEXT))
    edit(folder / "config.json", hidden_size=30)
    assert refusal(lambda: load_classifier(folder, **TEXT)).startswith(str(folder))


def test_distilled_deit_becomes_the_plain_class(tmp_path: Path):
    """Its config names the class with a second head, which only students use."""
    config = DeiTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8
    )
    DeiTForImageClassificationWithTeacher(config).save_pretrained(tmp_path)
    loaded = load_classifier(tmp_path, **IMAGE)
    assert type(loaded.model).__name__ == "DeiTForImageClassification"
    assert loaded.fresh == ("classifier",)


def test_family_with_a_num_labels_field(tmp_path: Path):
    config = AutoConfig.for_model(
        "pvt", hidden_sizes=[8, 8, 8, 8], depths=[1] * 4, num_attention_heads=[1] * 4, image_size=32, mlp_ratios=[1] * 4
    )
    AutoModelForImageClassification.from_config(config).save_pretrained(tmp_path)
    loaded = load_classifier(tmp_path, **IMAGE)
    assert classification_layer(loaded.model).out_features == len(IMAGE["labels"]) == loaded.model.config.num_labels


def test_reinitialized_layers_differ_even_with_the_checkpoints_seed(tmp_path: Path):
    folder = tiny_text_checkpoint(tmp_path, "bert")
    before = load_classifier(folder, **TEXT).model.bert.encoder.layer[-1].output.dense.weight
    for seed in range(3):
        loaded = load_classifier(folder, **TEXT, seed=seed, surgery=(ReinitTopLayers(1),))
        assert (loaded.model.bert.encoder.layer[-1].output.dense.weight - before).abs().min() > 0


# --- dropout and attention


def rates(model: nn.Module) -> set[float]:
    return {m.p for m in model.modules() if isinstance(m, nn.Dropout)}


@pytest.mark.parametrize("family", FAMILIES)
def test_dropout_is_set_everywhere_and_survives(family: str, classifier, inputs, tmp_path: Path):
    loaded = classifier(family, dropout=0.25)
    model = loaded.model
    if family == "resnet":
        assert any("has no dropout" in n for n in loaded.notes)
        return
    # EfficientNet's rates grow with depth.
    assert rates(model) <= {0.25} or (family == "efficientnet" and max(rates(model)) == 0.25)
    assert rates(model) or family in ("convnext", "poolformer")
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path).to_dict()
    assert {config[k] for k in config if "drop" in k} == {0.25}
    batch = inputs(family)
    with torch.no_grad():
        torch.manual_seed(0)
        assert not torch.equal(model.train()(**batch).logits, model.eval()(**batch).logits)
        without = classifier(family, dropout=0.0).model
        freeze_batch_norm(without)
        assert torch.equal(without.train()(**batch).logits, without.eval()(**batch).logits)


def test_unset_dropout_is_the_checkpoints(classifier):
    assert rates(classifier("bert").model) == {0.1}
    assert rates(classifier("distilbert").model) == {0.1, 0.2}


def test_dropout_without_a_config_field_is_refused(classifier, monkeypatch: pytest.MonkeyPatch):
    read = AutoModelForSequenceClassification.from_pretrained

    def read_with_a_rate_of_its_own(*args, **options):
        model, info = read(*args, **options)
        model.bert.encoder.layer[0].output.dropout.p = 0.1
        return model, info

    monkeypatch.setattr(AutoModelForSequenceClassification, "from_pretrained", read_with_a_rate_of_its_own)
    assert "bert.encoder.layer.0.output.dropout" in refusal(lambda: classifier("bert", dropout=0.3))


@pytest.mark.skipif(torch.accelerator.is_available(), reason="the default is another one there")
@pytest.mark.parametrize("family", FAMILIES)
def test_eager_is_the_default_without_an_accelerator(family: str, classifier):
    assert classifier(family).model.config._attn_implementation == "eager"


@pytest.mark.parametrize("family", ["bert", "modernbert", "vit", "swin"])
def test_sdpa_gives_the_same(family: str, classifier, inputs):
    fast, plain = (classifier(family, attn_implementation=a).model.eval() for a in ("sdpa", "eager"))
    assert fast.config._attn_implementation == "sdpa"
    with torch.no_grad():
        torch.testing.assert_close(fast(**inputs(family)).logits, plain(**inputs(family)).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["deberta-v2", "mpnet", "convnext", "resnet"])
def test_sdpa_where_there_is_none(family: str, classifier):
    message = refusal(lambda: classifier(family, attn_implementation="sdpa"))
    assert message == f"model.attn_implementation: {family} has no sdpa attention; expected eager"


def test_nystromformer_with_few_landmarks_is_refused(tmp_path: Path):
    """With as many landmarks as tokens of a segment any length works; with fewer transformers does not pad."""
    options = {"task": "text-classification", "labels": ["a", "b"]}
    ids = torch.randint(5, 100, (2, 12), generator=torch.Generator().manual_seed(0))
    loaded = load_classifier(tiny_text_checkpoint(tmp_path / "all", "nystromformer"), **options)
    assert loaded.model.eval()(input_ids=ids).logits.isfinite().all()
    folder = tiny_text_checkpoint(tmp_path / "few", "nystromformer", num_landmarks=4)
    message = refusal(lambda: load_classifier(folder, **options))
    assert message.startswith(f"{folder}: num_landmarks 4 needs texts of exactly 64 tokens")


def test_head_with_other_class_ids_is_replaced(tmp_path: Path) -> None:
    """Even if the names match, the rows of the classes are not known."""
    folder = tiny_text_checkpoint(tmp_path / "bert")
    load_classifier(str(folder), task="text-classification", labels=("a", "b"), seed=1).model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    assert load_classifier(str(folder), task="text-classification", labels=("a", "b")).fresh == ()
    (folder / "config.json").write_text(json.dumps(config | {"id2label": {"1": "a", "2": "b"}}))
    loaded = load_classifier(str(folder), task="text-classification", labels=("a", "b"))
    assert loaded.fresh == ("classifier",) and any("2 other classes (1: a, 2: b)" in note for note in loaded.notes)
