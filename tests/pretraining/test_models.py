"""Loading checkpoints for pretraining, with new heads, and saving their encoders."""

from pathlib import Path

import pytest
import torch
from helpers.tiny import IMAGE_FAMILIES, tiny_image_checkpoint, tiny_text_checkpoint
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from hf_finetune.errors import InputError
from hf_finetune.models.checkpoint import inspect_checkpoint
from hf_finetune.pretraining.autoencoder import MaskedAutoencoder
from hf_finetune.pretraining.config import MAE, MaskedLanguage, SimCLR, SimCSE, SimMIM
from hf_finetune.pretraining.models import load_pretrainable, replace_head, save_encoder
from hf_finetune.pretraining.objectives.base import Objective


@pytest.mark.parametrize("family", ["bert", "distilbert", "electra", "modernbert"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_new_head_is_tied_to_the_embeddings(tmp_path: Path, family: str, tied: bool) -> None:
    """Whatever the config says; another seed gives another head on the same encoder."""
    local = inspect_checkpoint(tiny_text_checkpoint(tmp_path / family, family, tie_word_embeddings=tied))
    model, other = (load_pretrainable(local, MaskedLanguage(), seed=seed) for seed in (0, 1))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    before = AutoModel.from_pretrained(local.folder).get_input_embeddings().weight
    assert torch.equal(model.get_input_embeddings().weight, before)
    differ = {n for n, x in model.state_dict().items() if not torch.equal(x, other.state_dict()[n])}
    assert differ and not any(n.startswith(f"{model.base_model_prefix}.") for n in differ)


def test_the_head_of_a_checkpoint_is_used(tmp_path: Path) -> None:
    """Also if it is not tied."""
    folder = tiny_text_checkpoint(tmp_path / "bert", tie_word_embeddings=False)
    torch.manual_seed(3)
    whole = AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(folder))
    whole.save_pretrained(folder)
    model = load_pretrainable(inspect_checkpoint(folder), MaskedLanguage(), seed=5)
    assert all(torch.equal(x, whole.state_dict()[n]) for n, x in model.state_dict().items())
    assert model.get_output_embeddings().weight is not model.get_input_embeddings().weight


@pytest.mark.parametrize(
    ("family", "objective"),
    [
        *((family, MaskedLanguage()) for family in ("bert", "mpnet", "deberta-v2")),
        ("bert", SimCSE()),
        ("vit", SimMIM()),
        ("swin", SimMIM()),
        ("deit", MAE()),
        ("dinov2", MAE()),
        *((family, SimCLR()) for family in ("vit", "beit", "convnext", "resnet")),
    ],
)
def test_saved_encoders_have_the_trained_weights(tmp_path: Path, family: str, objective: Objective) -> None:
    """And those of the checkpoint where nothing trains: BERT's pooler."""
    make = tiny_image_checkpoint if family in IMAGE_FAMILIES else tiny_text_checkpoint
    local = inspect_checkpoint(make(tmp_path / "before", family))
    model = load_pretrainable(local, objective)
    if isinstance(objective, MAE):
        model = MaskedAutoencoder(model, layers=1, width=8, shape=(3, 32, 32), seed=0)
    if isinstance(objective, SimCLR):
        replace_head(model, 8, seed=0)
    idle = {n for n, p in model.base_model.named_parameters() if not p.requires_grad}
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5)
    save_encoder(model, local, tmp_path / "after")
    before, after = (AutoModel.from_pretrained(tmp_path / name).state_dict() for name in ("before", "after"))
    trained = model.base_model.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        assert torch.equal(tensor, trained.get(name, before[name])), name
    still = {name.split(".")[0] for name in after if name not in trained or name in idle}
    assert still == ({"pooler"} if family in ("bert", "mpnet", "vit", "deit") else set())
    moved = {name for name in after if not torch.equal(before[name], after[name])}
    assert moved == {n for n, _ in model.base_model.named_parameters()} & after.keys() - idle


@pytest.mark.parametrize("objective", [MaskedLanguage(), SimCSE()])
def test_a_missing_pooler_is_not_saved(tmp_path: Path, objective: Objective) -> None:
    """So that a classifier draws it from its own seed."""
    folder = tiny_text_checkpoint(tmp_path / "bert")
    AutoModel.from_pretrained(folder, add_pooling_layer=False).save_pretrained(folder)
    local = inspect_checkpoint(folder)
    save_encoder(load_pretrainable(local, objective), local, tmp_path / "after")
    _, info = AutoModel.from_pretrained(tmp_path / "after", output_loading_info=True)
    assert {name.split(".")[0] for name in info["missing_keys"]} == {"pooler"}


def test_families_without_the_objective_are_refused(tmp_path: Path) -> None:
    for family, objective, message in (
        ("resnet", SimMIM(), "SimMIM expects a vit, deit or swin checkpoint, got resnet"),
        ("vit", MaskedLanguage(), "MaskedLanguage expects a bert, .* checkpoint, got vit"),
        (
            "swin",
            MAE(),
            "MAE expects a vit, deit or dinov2 checkpoint, got swin",
        ),
    ):
        with pytest.raises(InputError, match=f"pretrain.objective: {message}"):
            load_pretrainable(inspect_checkpoint(tiny_image_checkpoint(tmp_path / family, family)), objective)
