"""`transformers.Trainer` with whole checkpoints: a kill leaves no part of one, and hooks, clock and adapters resume.

Each overridden method says how it differs from `transformers.Trainer`, and why.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.optimizer import AcceleratedOptimizer
from datasets import Dataset
from peft import PeftModel
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import ExportableState

from hf_finetune.models.peft import state as adapter_state
from hf_finetune.training import checkpoints
from hf_finetune.training.callbacks import LogLines
from hf_finetune.training.clock import LoopClock
from hf_finetune.training.hooks import Hook, HookEvents
from hf_finetune.training.nan_guard import NanGuard


class CheckpointingTrainer(Trainer):
    """Saves and loads checkpoints.

    Args:
        model, args: see `ClassifierTrainer`.
        train, validation: encoded rows.
        loss: called with the outputs, the labels and the rows of the step.
        hooks: their state is saved with the model's.
    """

    model: PreTrainedModel
    args: TrainingArguments
    optimizer: torch.optim.Optimizer

    def __init__(
        self,
        model: nn.Module,
        args: TrainingArguments,
        *,
        train: Dataset,
        validation: Dataset,
        loss: Callable[..., torch.Tensor],
        callbacks: Sequence[TrainerCallback],
        hooks: Sequence[Hook],
    ) -> None:
        self.hooks = hooks
        super().__init__(
            model,
            args,
            train_dataset=train,
            eval_dataset=validation,
            compute_loss_func=loss,
            callbacks=[*callbacks, HookEvents(hooks)],
        )
        self.nan_guard, self.clock = NanGuard(args.device, args.world_size), LoopClock()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save, unless a loss was not finite."""
        self.nan_guard.check(self.state.global_step)
        super().save_model(output_dir, _internal_call)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Save under a temporary name, until all processes have written their parts. The Trainer writes under the
        checkpoint's own name, where a kill leaves a part of it."""
        folder, step = Path(self.args.output_dir or ""), self.state.global_step
        staged = checkpoints.staged(folder, step)
        with self.clock.paused():
            self._use_evaluation_weights()
            self.store_flos()
            self.save_model(str(staged), _internal_call=True)
            if best := self.state.best_global_step:
                self.state.best_model_checkpoint = str(folder / f"checkpoint-{best}")
            self._save_optimizer_and_scheduler(str(staged))
            self._save_scaler(str(staged))
            self._save_rng_state(str(staged))
            if self.args.should_save:
                self._save_state(staged)
                for hook in self.hooks:
                    hook.on_save(self.model, self.state, staged)
                self.clock.save(staged)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                checkpoints.commit(folder, step)
            self.accelerator.wait_for_everyone()

    def _save_state(self, checkpoint: Path) -> None:
        """Write the state of the trainer and of the callbacks that have one, and wait for the log up to this step."""
        callbacks = self.callback_handler.callbacks
        states: Any = self.state.stateful_callbacks
        for source in (*callbacks, self.control):
            if isinstance(source, ExportableState):
                name, state = type(source).__name__, source.state()
                # A list: of several callbacks of one type.
                if isinstance(states[name], list):
                    states[name].append(state)
                else:
                    states[name] = state
        self.state.save_to_json(str(checkpoint / "trainer_state.json"))
        for callback in callbacks:
            if isinstance(callback, LogLines):
                callback.sync()

    def _use_evaluation_weights(self) -> None:
        """Let a schedule-free optimizer put its averaged weights into the model, until `training_step` takes them out.

        The Trainer does so in its own evaluation loop, which we do not use.
        """
        if isinstance(self.optimizer, AcceleratedOptimizer):
            self.optimizer.eval()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Write the weights alone. The Trainer would pickle its arguments with them, a Hub token included."""
        folder = Path(output_dir or self.args.output_dir or "")
        checkpoints.save_weights(self.model, folder, state_dict, is_main=self.args.should_save)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load weights. Adapters have our own format, because peft's does not resume every method."""
        if isinstance(self.model, PeftModel):
            adapter_state.load_state(self.model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        # Before loading: the optimizer would compute its average from the loaded weights.
        self._use_evaluation_weights()
        if isinstance(self.model, PeftModel) and self.state.best_model_checkpoint is not None:
            adapter_state.load_state(self.model, Path(self.state.best_model_checkpoint))
        else:
            super()._load_best_model()

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        checkpoints.refuse_missing(self.model, load_result.missing_keys, str(self.args.output_dir))
        super()._issue_warnings_after_load(load_result)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self._resume_hooks(Path(checkpoint))

    def _resume_hooks(self, checkpoint: Path) -> None:
        for hook in self.hooks:
            hook.on_resume(self.model, checkpoint)

    def _restore_best(self, last: Path) -> None:
        self.state = checkpoints.saved_state(last)
        chosen = self.state.best_global_step if self.args.load_best_model_at_end else None
        best = chosen or self.state.global_step
        # The saved path may be stale: the run's folder may have been moved.
        self.state.best_model_checkpoint = str(last.with_name(f"checkpoint-{best}"))
        self._load_best_model()
        self._resume_hooks(last)
        # Gradual unfreezing then restores which weights were trained.
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
