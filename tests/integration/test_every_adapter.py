"""A whole run of each PEFT type: it trains, loads by plain peft and merged, and resumes. On images those of each
kind."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from helpers.small_runs import image_rows, small_recipe
from helpers.tiny import tiny_image_checkpoint
from safetensors.torch import load_file

from hf_finetune import ImageData, Launch, Model, Recipe
from hf_finetune.errors import InputError
from hf_finetune.models.peft.compatibility import MERGEABLE, PROMPTS
from hf_finetune.models.peft.config import PEFT_TYPES
from hf_finetune.models.peft.state import FILE
from hf_finetune.pipeline import run

pytestmark = pytest.mark.usefixtures("gate_here")
# Sizes that fit a width of 32; the other types take PEFT's own.
CONFIGS: dict[str, Any] = {
    "LORA": peft.LoraConfig(),
    "ADALORA": peft.AdaLoraConfig(init_r=4, target_r=2, total_step=1),
    "IA3": peft.IA3Config(),
    "VERA": peft.VeraConfig(r=4),
    "OFT": peft.OFTConfig(oft_block_size=4),
    "BOFT": peft.BOFTConfig(),
    "LOHA": peft.LoHaConfig(),
    "LOKR": peft.LoKrConfig(),
    "HRA": peft.HRAConfig(r=4),
    "FOURIERFT": peft.FourierFTConfig(n_frequency=16),
    "RANDLORA": peft.RandLoraConfig(r=4),
    "PROMPT_TUNING": peft.PromptTuningConfig(),
    "P_TUNING": peft.PromptEncoderConfig(num_virtual_tokens=3),
    "PREFIX_TUNING": peft.PrefixTuningConfig(),
}
MERGED = [kind.value for kind in MERGEABLE]
ALONE = [kind.value for kind in PROMPTS if kind.value != "PREFIX_TUNING"]
# Added to the weights, multiplied with them, in another basis; tests/models/peft/test_adapters.py tries all on all
# families.
ON_PICTURES = ["ADALORA", "OFT", "FOURIERFT"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return small_recipe(tmp_path_factory.mktemp("texts"))


@pytest.fixture(scope="module")
def pictures(texts: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """40 images in a folder for each class, and a tiny ViT."""
    folder = tmp_path_factory.mktemp("pictures")
    for name in ("dark", "light"):
        (folder / "data" / name).mkdir(parents=True)
    for row in image_rows(40):
        (folder / "data" / ("dark", "light")[row["label"]] / f"{row['row']}.png").write_bytes(row["image"]["bytes"])
    checkpoint = tiny_image_checkpoint(folder / "vit")
    data = ImageData(path=str(folder / "data"), decode_once=False)
    return replace(texts, data=data, model=Model(checkpoint=str(checkpoint)))


def two_epochs(recipe: Recipe, kind: str) -> Recipe:
    train = replace(recipe.train, num_train_epochs=2.0, keep_checkpoints=True)
    return replace(recipe, adapter=CONFIGS[kind], train=train)


def weights_at(checkpoint: Path) -> dict[str, torch.Tensor]:
    """What trains, as a checkpoint keeps it."""
    return {n: t for n, t in load_file(checkpoint / FILE).items() if n.startswith("weight:")}


def test_every_type_is_here() -> None:
    assert sorted(CONFIGS) == sorted(PEFT_TYPES)


@pytest.mark.parametrize(
    ("what", "kind"), [*(("texts", kind) for kind in MERGED + ALONE), *(("pictures", kind) for kind in ON_PICTURES)]
)
def test_a_whole_run(what: str, kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    recipe, folder = two_epochs(request.getfixturevalue(what), kind), tmp_path / "run"
    result = run.run(recipe, Launch(output=str(folder)))
    assert result is not None and result["method"] == kind.lower()
    # Plain peft loads the adapter, plain transformers the merged model, in the gate.
    expected = {"adapter", "reload", "pipeline"} if kind in MERGED else {"adapter"}
    assert result["parity"].keys() == expected and all(check["ok"] for check in result["parity"].values())
    assert result["standalone"] is (kind in MERGED)

    early, late = sorted((folder / "checkpoints").glob("checkpoint-*"), key=lambda p: int(p.name[11:]))
    before, after = weights_at(early), weights_at(late)
    assert result["parameters"]["trained"] == sum(t.numel() for t in after.values())
    # A rank that AdaLoRA has cut stays at 0.
    adapter = {n: t for n, t in after.items() if "modules_to_save" not in n and "lora_E" not in n}
    assert adapter and all(not torch.equal(tensor, before[name]) for name, tensor in adapter.items())
    if kind in MERGED:
        pretrained = load_file(Path(recipe.model.checkpoint) / "model.safetensors")
        merged = load_file(folder / "model" / "model.safetensors")
        prefix = "bert." if what == "texts" else "vit."
        changed = {n for n, t in pretrained.items() if f"{prefix}{n}" in merged and not same(merged[f"{prefix}{n}"], t)}
        # The linear layers of the encoder, and the head with all that was random. AdaLoRA may leave a layer no rank.
        config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
        changed_layers = sum(map(any, config["rank_pattern"].values())) if kind == "ADALORA" else 18
        assert len([n for n in changed if "layer" in n]) == changed_layers > 12
        assert all("layer" in n or "pooler" in n for n in changed), changed

    shutil.rmtree(late)
    (folder / "result.json").unlink()
    run.run(recipe, Launch(output=str(folder), resume=True))
    again = weights_at(late)
    assert again.keys() == after.keys() and all(torch.equal(tensor, again[n]) for n, tensor in after.items())


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=0, atol=1e-6)


def test_adapter_config_names_its_type(texts: Recipe, tmp_path: Path) -> None:
    run.run(two_epochs(texts, "LOKR"), Launch(output=str(tmp_path / "run")))
    assert json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())["peft_type"] == "LOKR"


@pytest.mark.parametrize("kind", [*ALONE, "PREFIX_TUNING"])
def test_prompts_on_images_are_refused(kind: str, pictures: Recipe, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{kind} does not fit vit: images have no prompt"):
        run.run(two_epochs(pictures, kind), Launch(output=str(tmp_path / "run")))
