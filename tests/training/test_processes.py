"""Two processes end together: whichever meets the trouble, both stop, and say why."""

from pathlib import Path

from helpers.ranks import run_in_two_processes
from helpers.small_runs import small_trainer

SCRIPT = """
import os, signal, sys
from pathlib import Path
from helpers.small_runs import small_trainer
from transformers import TrainerCallback
from hf_finetune.errors import StoppedBySignal, TrainingError
from hf_finetune.training.callbacks import TimeLimit
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

# A limit of time that is over in one process.
trainer = small_trainer(Path(sys.argv[1]), "bert", micro_batch=4)
trainer.add_callback(TimeLimit(0.0 if second else 1_000.0))
trainer.train()
print("ended after step", trainer.state.global_step)
"""


def test_both_processes_stop_when_one_has_to(tmp_path: Path) -> None:
    # The checkpoint is made beforehand: two processes would make it twice.
    small_trainer(tmp_path, "bert")
    for output in run_in_two_processes(SCRIPT, tmp_path, folder=tmp_path):
        errors = [line for line in output.splitlines() if not line.startswith("{")]
        assert len(errors) == 3, output
        assert errors[0].startswith("step 1: the loss is not a number")
        assert errors[1].startswith("stopped by SIGTERM after saving step 5")
        assert errors[2] == "ended after step 1"


LOST = """
import os, signal, sys
from pathlib import Path
from helpers.small_runs import small_trainer
from transformers import TrainerCallback
from hf_finetune.errors import TrainingError
from hf_finetune.training.distributed import plain_peer_errors

class Killed(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if os.environ["RANK"] == "1":
            signal.raise_signal(signal.SIGKILL)

trainer = small_trainer(Path(sys.argv[1]), "bert", micro_batch=4)
trainer.add_callback(Killed())
try:
    with plain_peer_errors():
        trainer.train()
except TrainingError as error:
    print(error, flush=True)
    os._exit(0)
"""


def test_a_process_that_is_left_alone_says_so(tmp_path: Path) -> None:
    small_trainer(tmp_path, "bert")
    output, _ = run_in_two_processes(LOST, tmp_path, folder=tmp_path, statuses=(0, -9))
    assert output.splitlines()[-1].startswith("another process of this run has ended")
