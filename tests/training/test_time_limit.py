"""Training that ends after a time."""

from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_finetune.training.callbacks import TimeLimit


def test_training_stops_when_the_time_is_over(tmp_path) -> None:
    arguments, state = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to="none"), TrainerState()
    for seconds, stops in ((0.0, True), (1_000.0, False)):
        control, limit = TrainerControl(), TimeLimit(seconds)
        limit.on_train_begin(arguments, state, control)
        limit.on_step_end(arguments, state, control)
        assert control.should_training_stop is stops
        assert (limit.share >= 1) is stops and limit.share > 0
