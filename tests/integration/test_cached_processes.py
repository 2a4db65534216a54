"""Two processes share one store of activations: one builds it, both train on it, and end where one process ends."""

from pathlib import Path

import torch
from helpers.ranks import run_in_two_processes
from helpers.small_runs import furthest, small_trainer, weights

from hf_finetune.models import freezing

SCRIPT = """
import sys
from pathlib import Path
import torch
from helpers.small_runs import small_trainer, use_data, weights
from hf_finetune.features.frozen_layers import cache_frozen_layers
from hf_finetune.models import freezing

folder = Path(sys.argv[1])
trainer = small_trainer(folder, "bert", micro_batch=4)
freezing.train_top(trainer.model, 1)
for _ in range(2):
    rows = cache_frozen_layers(
        trainer.model, trainer.inputs, trainer.train_dataset, trainer.eval_dataset,
        fingerprint="rows", autocast=None, budget_gb=1.0,
    )
    print(trainer.args.world_size, rows.report["used"], rows.reused)
    if not rows.reused:
        rows.close()
use_data(trainer, train=rows.train, validation=rows.validation, inputs=rows.inputs)
trainer.train()
if trainer.args.process_index == 0:
    torch.save(weights(trainer), folder / "together.pt")
"""


def test_two_processes_on_one_store(tmp_path: Path) -> None:
    alone = small_trainer(tmp_path, "bert")
    freezing.train_top(alone.model, 1)
    alone.train()
    said = run_in_two_processes(SCRIPT, tmp_path, folder=tmp_path)
    assert [text.splitlines()[:2] for text in said] == [["2 True False", "2 True True"]] * 2
    together = torch.load(tmp_path / "together.pt", weights_only=True)
    assert furthest(weights(alone), together) < 1e-3
