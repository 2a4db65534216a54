from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.small_runs import small_trainer

from hf_finetune.errors import InputError
from hf_finetune.training.hooks import HookEvents
from hf_finetune.training.regularization.elastic_net import ElasticNetSteps, penalized, proximal_step, sparsity


def test_proximal_step_by_hand() -> None:
    """Rate 0.1, l1 2: pulled by 0.2; l2 5: divided by 1.5."""
    weight = torch.tensor([1.1, -0.5, 0.2, -0.1, 0.0])
    proximal_step(weight, rate=0.1, l1=2.0, l2=5.0)
    assert weight.tolist() == pytest.approx([0.6, -0.2, 0.0, 0.0, 0.0])
    assert (weight[2:] == 0).all()


def test_step_takes_the_rate_of_its_group_and_passes_over_what_overflowed() -> None:
    fast, slow = (torch.nn.Parameter(torch.tensor([1.0, -0.05])) for _ in range(2))
    groups = [{"params": [fast], "lr": 0.1}, {"params": [slow], "lr": 0.01}]
    model = torch.nn.ParameterList([fast, slow])
    args, options = SimpleNamespace(fp16=True), {"model": model, "optimizer": SimpleNamespace(param_groups=groups)}
    steps = ElasticNetSteps({"fast": fast}, l1=1.0, l2=0.0)
    slow.grad = torch.tensor([0.1, float("inf")])
    HookEvents([steps]).on_optimizer_step(args, None, None, **options)
    assert fast.tolist() == pytest.approx([1.0, -0.05])
    slow.grad = torch.tensor([0.1, 0.2])
    steps.parameters["slow"] = slow
    HookEvents([steps]).on_optimizer_step(args, None, None, **options)
    assert fast.tolist() == pytest.approx([0.9, 0.0]) and slow.tolist() == pytest.approx([0.99, -0.04])
    result = sparsity({"fast": fast, "slow": slow})
    assert result == {"weights": 4, "zeros": 1, "share": 0.25, "parameters": {"fast": 0.5, "slow": 0.0}}


def test_choice_of_parameters(tmp_path: Path) -> None:
    model = small_trainer(tmp_path, "bert").model
    assert list(penalized(model, ())) == ["classifier.weight"]
    chosen = penalized(model, ("*.layer.0.*.weight", "classifier.bias"))
    assert "classifier.bias" in chosen and "bert.encoder.layer.0.attention.self.query.weight" in chosen
    assert not any("layer.1" in name for name in chosen)
    model.bert.requires_grad_(False)
    with pytest.raises(InputError, match=r"elastic_net.parameters: .*classifier.bias.*got '\*layer"):
        penalized(model, ("classifier.*", "*layer.0*"))


def test_what_does_not_train_yet_stays() -> None:
    """Gradual unfreezing: the optimizer has the weights from the start."""
    waits = torch.nn.Parameter(torch.tensor([1.0, -0.05]), requires_grad=False)
    optimizer = torch.optim.SGD([waits], lr=0.1)
    ElasticNetSteps({"waits": waits}, l1=1.0, l2=0.0).after_update(None, None, optimizer, overflowed=False)
    assert waits.tolist() == pytest.approx([1.0, -0.05])
