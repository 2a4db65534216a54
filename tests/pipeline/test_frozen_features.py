"""What a head on frozen features says of rows that it was not fitted to."""

import numpy as np

from hf_finetune.pipeline.frozen_features import held_out_scores
from hf_finetune.tasks.single_label import SingleLabel


def test_a_fold_that_has_all_rows_of_a_rare_class_has_scores_that_are_probabilities() -> None:
    """One that has none is predicted by a head; the other half sees a single class."""
    labels_N = np.array([0] * 18 + [1] * 2)
    fold_N = (np.arange(20) >= 10).astype(np.int64)
    features_ND = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32) + labels_N[:, None]
    task = SingleLabel(("often", "rare"))
    scores_NC = held_out_scores(task, features_ND, labels_N, fold_N)
    assert scores_NC[10:].tolist() == [[1.0, 0.0]] * 10 and (scores_NC[:10, 1] > 0).all()
    assert 0 < task.values(labels_N, scores_NC)["accuracy"] < 1
