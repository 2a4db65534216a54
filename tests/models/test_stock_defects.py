"""Defects of transformers and peft, shown on them and on this package; fails when a new version fixes one."""

import json
import shutil
from pathlib import Path

import peft
import pytest
import torch
from helpers.checkpoints import load_classifier
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from hf_finetune.errors import InputError
from hf_finetune.models.peft.adapters import add_adapter, load_adapter, save_adapter


@pytest.mark.parametrize("stock", [True, False], ids=["stock", "ours"])
def test_index_outside_its_folder(checkpoint, tmp_path: Path, stock: bool) -> None:
    """The stock loader reads a weight from there; `inspect_checkpoint` refuses and names the file."""
    folder = tmp_path / "model"
    shutil.copytree(checkpoint("bert"), folder)
    whole = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    foreign = next(name for name in whole if name.endswith("word_embeddings.weight"))
    save_file({n: w for n, w in whole.items() if n != foreign}, folder / "rest.safetensors", metadata={"format": "pt"})
    save_file(
        {foreign: torch.full_like(whole[foreign], 7.0)}, tmp_path / "outside.safetensors", metadata={"format": "pt"}
    )
    places = {name: "../outside.safetensors" if name == foreign else "rest.safetensors" for name in whole}
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    if stock:
        assert bool((AutoModel.from_pretrained(folder).embeddings.word_embeddings.weight == 7.0).all())
        return
    with pytest.raises(InputError, match=r"points outside.*outside\.safetensors|outside\.safetensors.*points outside"):
        load_classifier(folder, task="text-classification", labels=["a", "b"])


@pytest.mark.parametrize("stock", [True, False], ids=["stock", "ours"])
@pytest.mark.parametrize("family", ["deberta-v2", "modernbert", "vit"])
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_a_head_under_lora(family: str, stock: bool, classifier, inputs, tmp_path: Path) -> None:
    """Trained, saved and loaded onto a base with another head: only this package restores the model."""
    kind = {} if family == "vit" else {"task_type": "SEQ_CLS"}
    config = peft.LoraConfig(target_modules="all-linear", **kind)
    loaded, other, batch = classifier(family, seed=1), classifier(family, seed=2).model, inputs(family)
    adapted = peft.get_peft_model(loaded.model, config) if stock else add_adapter(loaded.model, config, loaded.fresh)
    generator = torch.Generator().manual_seed(0)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    if stock:
        adapted.save_pretrained(tmp_path, save_embedding_layers=False)
        reloaded = peft.PeftModel.from_pretrained(other, tmp_path)
    else:
        save_adapter(adapted, tmp_path / "adapter")
        reloaded = load_adapter(other, tmp_path / "adapter")
    with torch.no_grad():
        difference = (reloaded.eval()(**batch).logits - adapted.eval()(**batch).logits).abs().max()
    assert difference > 1e-2 if stock else difference < 1e-5
