"""AdaLoRA in training: which ranks are left, its penalty, and a resumed run."""

from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from helpers.checkpoints import load_classifier
from helpers.small_runs import furthest, small_trainer
from peft import PeftModel
from safetensors.torch import load_file

from hf_finetune.errors import InputError
from hf_finetune.models.peft.adapters import add_adapter, load_adapter, save_adapter
from hf_finetune.models.peft.state import FILE, load_state, save_state
from hf_finetune.training.adalora import AdaLora, orthogonality
from hf_finetune.training.trainer import ClassifierTrainer

STEPS = 10


def adapted(folder: Path, **fields) -> PeftModel:
    made = small_trainer(folder, "bert")
    config = peft.AdaLoraConfig(init_r=4, target_r=2, total_step=1, **fields)
    return add_adapter(made.model, config, (), steps=STEPS)


def rank_trainer(folder: Path, model: PeftModel) -> ClassifierTrainer:
    """Ten steps in two epochs on an adapted model."""
    like = small_trainer(folder, "bert", num_train_epochs=2.0)
    return ClassifierTrainer(model, like.args, replace(like.setup, hooks=(AdaLora(model),)))


def left(model: PeftModel) -> list[int]:
    """Ranks that are not cut, by matrix."""
    return [int((p != 0).sum()) for n, p in model.named_parameters() if ".lora_E." in n]


def state(model: PeftModel) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def test_the_schedule_is_the_runs(tmp_path: Path) -> None:
    config = adapted(tmp_path).active_peft_config
    assert (config.total_step, config.tinit, config.tfinal) == (10, 1, 3)
    own = adapted(tmp_path, tinit=0, tfinal=0, deltaT=2, beta1=0.5).active_peft_config
    assert (own.deltaT, own.beta1) == (2, 0.5)
    model = small_trainer(tmp_path, "bert").model
    with pytest.raises(InputError, match="tinit 8 and tfinal 3 leave none of the 10 steps"):
        add_adapter(model, peft.AdaLoraConfig(total_step=99, tinit=8, tfinal=3), (), steps=STEPS)
    with pytest.raises(InputError, match="target_r: expected less than init_r"):
        add_adapter(model, peft.AdaLoraConfig(total_step=99, init_r=8, target_r=8), (), steps=STEPS)


def test_ranks_are_cut_to_the_budget(tmp_path: Path) -> None:
    """18 matrices of rank 4 begin; 18 x 2 ranks are left, spread by importance; saved, they load into the same
    model."""
    model = adapted(tmp_path)
    trainer = rank_trainer(tmp_path, model)
    trainer.train()
    assert len(left(model)) == 18 and trainer.state.global_step == STEPS
    # The best epoch's weights are kept: after five steps, at step 5 of 1 + 6 cuts, or at the end with the final budget.
    assert 18 * 2 <= sum(left(model)) < 18 * 4
    last = load_file(tmp_path / "checkpoints" / "checkpoint-10" / FILE)
    final = [int((t != 0).sum()) for n, t in last.items() if n.startswith("weight:") and ".lora_E." in n]
    assert sum(final) == 18 * 2 and len(set(final)) > 1, "by importance, not evenly"

    load_state(model, tmp_path / "checkpoints" / "checkpoint-10")
    save_adapter(model, tmp_path / "adapter")
    checkpoint = tmp_path / "checkpoint-of-bert"
    base = load_classifier(str(checkpoint), task="text-classification", labels=("no", "yes"), seed=9).model
    batch = {"input_ids": torch.arange(5, 25).reshape(2, 10)}
    with torch.no_grad():
        expected = model.eval()(**batch).logits
        result = load_adapter(base, tmp_path / "adapter").eval()(**batch).logits
    assert (result - expected).abs().max() < 1e-6
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert sorted(len(t) for n, t in stored.items() if n.endswith("lora_E")) == sorted(final), (
        "cut ranks are not stored"
    )


def test_resumed_run_ends_in_the_same_bits(tmp_path: Path) -> None:
    whole = adapted(tmp_path)
    rank_trainer(tmp_path, whole).train()
    resumed = adapted(tmp_path)
    rank_trainer(tmp_path, resumed).train(resume_from_checkpoint=str(tmp_path / "checkpoints" / "checkpoint-5"))
    assert furthest(state(whole), state(resumed)) == 0
    assert whole.active_peft_config.rank_pattern == resumed.active_peft_config.rank_pattern


def test_state_of_another_adapter_is_refused(tmp_path: Path) -> None:
    save_state(adapted(tmp_path), tmp_path / "state")
    other = add_adapter(small_trainer(tmp_path, "bert").model, peft.LoraConfig(target_modules=["query"]), ())
    with pytest.raises(InputError, match="weights of another adapter"):
        load_state(other, tmp_path / "state")


def test_orthogonality(tmp_path: Path) -> None:
    """Orthonormal rows cost nothing; rows twice as long: |4 I - I| = 3 sqrt(4) for rank 4, times the weight of 0.5."""
    model = adapted(tmp_path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_A." in name:
                parameter.copy_(torch.eye(*parameter.shape))
            if ".lora_B." in name:
                parameter.copy_(torch.eye(*parameter.shape))
    assert orthogonality(model).item() == 0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_A." in name or ".lora_B." in name:
                parameter.mul_(2)
    assert orthogonality(model).item() == pytest.approx(0.5 * 3 * 2)
