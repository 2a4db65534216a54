"""Every operation on every family: what it makes is what plain transformers makes of the saved config and weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.checkpoints import check_config, load_classifier
from helpers.models import logits, randomized
from helpers.tiny import IMAGE_FAMILIES, KIN, TEXT_FAMILIES, tiny_image_checkpoint
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)

from hf_finetune.errors import InputError
from hf_finetune.models.families import FAMILIES, names_where
from hf_finetune.models.surgery.gather_mean import FAMILIES_WITH_MEAN
from hf_finetune.models.surgery.operations import (
    AddLayers,
    DropLayers,
    DuplicateLayers,
    GatherMean,
    KeepLayers,
    LayerDrop,
    LayerStep,
    NarrowHidden,
    ReinitTopLayers,
    ResizeFeedForward,
    SetActivation,
    SetAttention,
    SetDropout,
    StochasticDepth,
    SurgeryStep,
    apply_surgery,
    config_after,
)

CONVNEXT = ("convnext", "convnextv2")
# Two stages of two layers.
CONVOLUTIONS = {
    "resnet": {"hidden_sizes": [8, 16], "depths": [2, 2]},
    "efficientnet": {
        "kernel_sizes": [3, 5],
        "in_channels": [32, 32],
        "out_channels": [32, 48],
        "strides": [1, 2],
        "num_block_repeats": [1, 2],
        "depth_coefficient": 1.2,
        "expand_ratios": [1, 2],
    },
    "poolformer": {
        "num_encoder_blocks": 2,
        "hidden_sizes": [8, 16],
        "depths": [2, 2],
        "patch_sizes": [7, 3],
        "strides": [4, 2],
        "padding": [2, 1],
    },
}
STAGED = names_where(lambda family: family.staged)
EVERY = (*TEXT_FAMILIES, *IMAGE_FAMILIES, *KIN)
# Families without a tiny checkpoint: their architecture is that of BERT or RoBERTa.
NAMESAKES = tuple(name for name in FAMILIES if name not in EVERY)
NO_FEED_FORWARD = names_where(lambda family: family.feed_forward is None)
POST_NORM = names_where(lambda family: family.norms)

# Operations, and the families whose config cannot express the result.
OPERATIONS: list[tuple[SurgeryStep, tuple[str, ...]]] = [
    (KeepLayers(first=2), STAGED),
    (KeepLayers(every=2), CONVNEXT),
    (DropLayers(last=1), CONVNEXT),
    (DuplicateLayers(layers=(1, 1)), ("swin",)),
    (AddLayers(layers=(1, 1)), ("albert",)),
    (ReinitTopLayers(1), ("albert",)),
    (SetActivation("mish"), ()),
    (SetDropout(hidden=0.25), ("dinov2", "dinov2_with_registers", *CONVNEXT, "resnet", "poolformer")),
    (SetDropout(attention=0.25), (*CONVNEXT, *CONVOLUTIONS)),
    (ResizeFeedForward(ratio=2.0), NO_FEED_FORWARD),
    (ResizeFeedForward(ratio=0.5), NO_FEED_FORWARD),
    (ResizeFeedForward(ratio=2.0, new="split"), NO_FEED_FORWARD),
    # The tiny ELECTRA has embeddings of exactly this width.
    (NarrowHidden(ratio=0.5), ("deberta-v2", "modernbert", "electra", *STAGED)),
    (SetAttention("sdpa"), ("deberta-v2", "mpnet", *CONVNEXT, *CONVOLUTIONS)),
    (GatherMean(), tuple(name for name in EVERY if name not in FAMILIES_WITH_MEAN)),
    (StochasticDepth(0.5), (*POST_NORM, "resnet", "efficientnet")),
    (StochasticDepth(0.5, "constant"), (*POST_NORM, *STAGED)),
    (LayerDrop(0.5), ("albert", *STAGED)),
]
# Operations that change the model in place, and nothing that is saved.
IN_PLACE = (SetAttention, LayerDrop)
SAME_FUNCTION = (AddLayers, SetDropout, SetAttention, StochasticDepth, LayerDrop)


@pytest.fixture(scope="module")
def lively(
    checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], PreTrainedModel]:
    """A classifier with random norms, biases and layer scales, so that all of them matter."""
    made: dict[str, PreTrainedModel] = {}

    def model(family: str) -> PreTrainedModel:
        if family not in made:
            known = family not in KIN and family not in CONVOLUTIONS
            shape = CONVOLUTIONS.get(family, {})
            folder = tmp_path_factory.mktemp(family)
            folder = checkpoint(family) if known else tiny_image_checkpoint(folder, family, **shape)
            task = "text-classification" if family in TEXT_FAMILIES else "image-classification"
            made[family] = randomized(load_classifier(folder, task=task, labels=["bad", "good", "so-so"]).model)
        return copy.deepcopy(made[family])

    return model


def reloaded(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    model.save_pretrained(folder)
    auto = (
        AutoModelForImageClassification
        if model.main_input_name == "pixel_values"
        else AutoModelForSequenceClassification
    )
    actual, info = auto.from_pretrained(
        folder, attn_implementation=model.config._attn_implementation, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    return actual


@pytest.mark.parametrize("family", EVERY)
def test_results_load_with_plain_transformers(family: str, lively, inputs, tmp_path: Path) -> None:
    batch = inputs("vit" if family in KIN else family)
    before = lively(family)
    expected = logits(before, batch)
    for number, (step, refused) in enumerate(OPERATIONS):
        if family in refused:
            with pytest.raises(InputError, match=family) as caught:
                config_after(before.config, [step])
            assert str(caught.value).startswith(f"model.surgery: {type(step).__name__}: ")
            continue
        untouched = {name: tensor.clone() for name, tensor in before.state_dict().items()}
        config = before.config.to_dict()
        after = apply_surgery(before, [step])
        assert before.config.to_dict() == config
        assert all(torch.equal(tensor, untouched[name]) for name, tensor in before.state_dict().items())
        assert after.config.to_dict() == config_after(before.config, [step]).to_dict(), step
        assert not after.training
        storages = [p.untyped_storage().data_ptr() for p in after.parameters()]
        assert len(set(storages)) == len(storages), step

        actual = logits(after, batch)
        assert torch.isfinite(actual).all()
        if isinstance(step, IN_PLACE):
            before = lively(family)
        else:
            again = logits(reloaded(after, tmp_path / str(number)), batch)
            torch.testing.assert_close(again, actual, rtol=0, atol=1e-6, msg=str(step))
        if isinstance(step, SAME_FUNCTION) or (isinstance(step, ResizeFeedForward) and step.ratio != 0.5):
            torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5, msg=str(step))
        else:
            assert (actual - expected).abs().max() > 1e-4, step


@pytest.mark.parametrize("family", NAMESAKES)
def test_families_that_reuse_an_architecture(family: str, tmp_path: Path) -> None:
    config = AutoConfig.for_model(
        family,
        vocab_size=110,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=64,
        pad_token_id=1,
    )
    model = randomized(AutoModelForSequenceClassification.from_config(config))
    batch = {"input_ids": torch.arange(5, 29).view(2, 12)}
    after = apply_surgery(model, [AddLayers(first=1), DropLayers(last=1), ResizeFeedForward(width=96)])
    assert after.config.num_hidden_layers == 3
    assert (logits(reloaded(after, tmp_path), batch) - logits(after, batch)).abs().max() <= 1e-6


def test_operations_apply_in_order(lively, inputs) -> None:
    steps = [DropLayers(last=1), AddLayers(last=1), AddLayers(layers=(2, 2)), SetActivation("silu")]
    model = apply_surgery(lively("bert"), steps)
    assert model.config.num_hidden_layers == len(model.bert.encoder.layer) == 5
    with pytest.raises(InputError, match=r"layers: expected rising numbers from 0 to 1, got \[2\]"):
        config_after(lively("bert").config, [DropLayers(last=1), KeepLayers(layers=(2,))])


@pytest.mark.parametrize("after", [DuplicateLayers(last=1), AddLayers(last=1), DropLayers(last=1), KeepLayers(first=2)])
def test_reinit_must_follow_changes_of_depth(lively, after: LayerStep) -> None:
    config = lively("bert").config
    with pytest.raises(InputError, match=rf"ReinitTopLayers: expected after {type(after).__name__}, which changes"):
        config_after(config, [ReinitTopLayers(1), SetActivation("silu"), after])
    config_after(config, [after, ReinitTopLayers(1), SetActivation("silu")])


def test_training_hooks_are_added_last(lively) -> None:
    """A later operation would build layers without the hooks."""
    model = apply_surgery(lively("vit"), [LayerDrop(0.5), StochasticDepth(0.2), AddLayers(last=1)])
    assert [[hook.rate for hook in layer._forward_hooks.values()] for layer in model.vit.layers] == [
        [0.0, 0.5],
        [pytest.approx(0.2 / 3), 0.5],
        [pytest.approx(0.4 / 3), 0.5],
        [0.2, 0.5],
    ]
    with pytest.raises(InputError, match="LayerDrop: expected at most once"):
        config_after(model.config, [LayerDrop(0.1), LayerDrop(0.2)])


def test_new_weights_depend_on_the_seed_only(checkpoint) -> None:
    options = {"task": "text-classification", "labels": ["no", "yes"], "surgery": (ReinitTopLayers(1),)}
    state = torch.get_rng_state()
    first, second, other = (load_classifier(checkpoint("bert"), seed=seed, **options).model for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    top = [model.bert.encoder.layer[2].output.dense.weight for model in (first, second, other)]
    assert torch.equal(top[0], top[1]) and not torch.equal(top[0], top[2])


def test_new_modules_stay_new_after_surgery(checkpoint) -> None:
    loaded = load_classifier(
        checkpoint("roberta"), task="text-classification", labels=["no", "yes"], surgery=(KeepLayers(first=1),)
    )
    assert loaded.fresh == ("classifier.dense", "classifier.out_proj")
    assert loaded.notes[-1].endswith("after surgery: KeepLayers(first=1)")


def test_refused_from_the_config_alone(checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        AutoModelForSequenceClassification, "from_pretrained", lambda *_, **__: pytest.fail("weights were loaded")
    )
    options = {"task": "text-classification", "labels": ["no", "yes"], "surgery": [AddLayers(last=1)]}
    with pytest.raises(InputError) as caught:
        load_classifier(checkpoint("albert"), **options)
    assert str(caught.value) == "model.surgery: AddLayers: the layers of albert share their weights; leave it out"


def test_unknown_families_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"model.surgery: KeepLayers: expected one of bert, .*, got regnet; leave it out"
    ):
        check_config(
            tiny_image_checkpoint(tmp_path, "regnet"), surgery=[KeepLayers(first=1)], task="image-classification"
        )
