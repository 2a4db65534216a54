"""Gradual unfreezing: by the step alone, without a trace of what waits."""

from pathlib import Path

import torch
from helpers.ranks import run_in_two_processes
from helpers.small_runs import furthest, small_trainer, trainer_with, weights

from hf_finetune.models.modules import encoder_layers
from hf_finetune.training.unfreezing import GradualUnfreezing, untrained_weights

# Head, three layers, embeddings: one more every two steps, so in steps 0, 2, 4, 6 and 8 of 10.
RUN = {"rows": 40, "rows_per_step": 8, "num_train_epochs": 2.0, "weight_decay": 0.1, "max_grad_norm": 1.0}


def unfreezing_trainer(folder: Path, steps: float = 2, **fields):
    made = trainer_with(hooks=lambda model: [GradualUnfreezing(model, steps=steps)])
    trainer = small_trainer(folder, "bert", trainer=made, **(RUN | fields))
    return trainer, trainer.hooks[0]


def test_when_each_group_begins(tmp_path: Path) -> None:
    trainer, unfreezing = unfreezing_trainer(tmp_path)
    assert [unfreezing.trains(step) for step in range(12)] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5, 5]
    # Half an epoch of 5 steps: 2.5 steps, so before steps 3 and 5 and 8.
    _, halves = unfreezing_trainer(tmp_path, 2.5)
    assert [halves.trains(step) for step in range(9)] == [1, 1, 1, 2, 2, 3, 3, 3, 4]
    rest = sum(p.numel() for p in trainer.model.bert.embeddings.parameters())
    assert untrained_weights(unfreezing, 8) == rest and untrained_weights(unfreezing, 9) == 0


def test_work_of_a_run_by_hand(tmp_path: Path) -> None:
    """Of four groups below the head none goes back in steps 0 and 1, one in 2 and 3, ..., all in 8 and 9: half on
    average."""
    _, unfreezing = unfreezing_trainer(tmp_path)
    assert unfreezing.work(10) == (1 + 2 * 0.5) / 3 and unfreezing.work(2) == 1 / 3
    head_alone = small_trainer(tmp_path, "bert", **RUN).model
    head_alone.bert.requires_grad_(False)
    assert GradualUnfreezing(head_alone, steps=2).work(10) == 1.0


def test_what_waits_does_not_move(tmp_path: Path) -> None:
    """Bit by bit, whatever weight decay and momentum would do; Adam's count of a layer begins with the layer."""
    trainer, unfreezing = unfreezing_trainer(tmp_path, max_steps=5)
    before = weights(trainer)
    trainer.train()
    layers = encoder_layers(trainer.model)
    moved = {name for name, tensor in weights(trainer).items() if not torch.equal(tensor, before[name])}
    assert not any("embeddings" in n or "layer.0." in n for n in moved)
    assert any("layer.1." in n for n in moved) and any("layer.2." in n for n in moved) and "classifier.weight" in moved

    def steps_of(parameter: torch.nn.Parameter) -> int:
        return int(trainer.optimizer.state[parameter]["step"])

    assert steps_of(trainer.model.classifier.weight) == 5
    assert steps_of(layers[2].output.dense.weight) == 3 and steps_of(layers[1].output.dense.weight) == 1
    assert layers[0].output.dense.weight not in trainer.optimizer.state
    # What never had its turn is not counted among what trained.
    assert not any(p.requires_grad for p in layers[0].parameters()) and unfreezing.trains(4) == 3


def test_all_at_once_is_the_run_without(tmp_path: Path) -> None:
    one, _ = unfreezing_trainer(tmp_path, 0.1)
    one.train()
    # From the second step on everything trains; in the first the head alone did.
    other = small_trainer(tmp_path, "bert", **RUN)
    other.train()
    assert 0 < furthest(weights(one), weights(other)) < 0.05


def test_resumed_run_ends_in_the_same_bits(tmp_path: Path) -> None:
    whole, _ = unfreezing_trainer(tmp_path, dropout=0.1)
    whole.train()
    stopped, _ = unfreezing_trainer(tmp_path, dropout=0.1)
    resumed = stopped
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoints" / "checkpoint-5"))
    assert furthest(weights(whole), weights(resumed)) == 0


PROCESS = """
import sys
from pathlib import Path
import torch
from test_unfreezing import unfreezing_trainer, weights
trainer, _ = unfreezing_trainer(Path(sys.argv[1]), micro_batch=4)
trainer.train()
if trainer.args.process_index == 0:
    torch.save(weights(trainer), Path(sys.argv[1]) / "two.pt")
"""


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    one, _ = unfreezing_trainer(tmp_path)
    one.train()
    script = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n" + PROCESS
    run_in_two_processes(script, tmp_path, folder=tmp_path)
    two = torch.load(tmp_path / "two.pt", weights_only=True)
    # Adam makes steps of up to 1e-3 of gradients that are rounding alone.
    assert furthest(weights(one), two) < 3e-4
