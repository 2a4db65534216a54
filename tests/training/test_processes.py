"""Two processes end together: whichever meets the trouble, both stop, and say why."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from small_runs import small_trainer

TESTS = Path(__file__).parent.parent
SCRIPT = """
import os, signal, sys
from pathlib import Path
from small_runs import small_trainer
from transformers import TrainerCallback
from hf_finetune.errors import StoppedBySignal, TrainingError
from hf_finetune.training.checkpoints import CheckpointKeeper, catching_signals

second = os.environ["RANK"] == "1"

# A loss that is not a number in one process, in a step that is logged.
trainer = small_trainer(Path(sys.argv[1]), "bert", micro_batch=4)
loss = trainer.compute_loss_func
trainer.compute_loss_func = lambda *args, **kw: loss(*args, **kw) * (float("nan") if second else 1.0)
try:
    trainer.train()
except TrainingError as error:
    print(error)

# A signal to one process, while the epoch is evaluated.
class Evaluated(TrainerCallback):
    def on_evaluate(self, args, state, control, **_):
        if second:
            os.kill(os.getpid(), signal.SIGTERM)

with catching_signals() as signals:
    trainer = small_trainer(Path(sys.argv[1]), "bert", micro_batch=4, num_train_epochs=2.0)
    trainer.add_callback(Evaluated())
    trainer.add_callback(CheckpointKeeper(signals))
    try:
        trainer.train()
    except StoppedBySignal as error:
        print(error)
"""


def test_both_processes_stop_when_one_has_to(tmp_path: Path) -> None:
    # The checkpoint is made beforehand: two processes would make it twice.
    small_trainer(tmp_path, "bert")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    workers = []
    for rank in ("0", "1"):
        environment = os.environ | {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHONPATH": str(TESTS)}
        command = [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path)]
        workers.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        )
    for worker in workers:
        said, complaint = worker.communicate(timeout=120)
        assert worker.returncode == 0, complaint[-3000:]
        errors = [line for line in said.splitlines() if not line.startswith("{")]
        assert len(errors) == 2, said
        assert errors[0].startswith("step 1: the loss is not a number")
        assert errors[1].startswith("stopped by SIGTERM after saving step 5")
