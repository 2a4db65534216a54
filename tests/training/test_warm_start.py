import numpy as np
import pytest
import torch
from small_runs import small_trainer

from hf_finetune.data.inputs import Rows, columns_of
from hf_finetune.evaluation.inference import predict_logits
from hf_finetune.models.heads import classification_layer, set_head
from hf_finetune.training.warm_start import fit_head, head_features


@pytest.mark.parametrize("classes", [2, 3])
def test_head_equals_logistic_regression_on_standardised_features(classes: int) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rng = np.random.default_rng(0)
    labels = rng.integers(0, classes, 300)
    features = (rng.normal(size=(300, 5)) * 3 + 10 + 2 * labels[:, None]).astype(np.float32)
    weight, bias = fit_head(features, labels, classes)
    ours = torch.softmax(torch.tensor(features) @ weight.T + bias, -1)
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=200, tol=1e-3)).fit(features, labels)
    assert np.allclose(ours, theirs.predict_proba(features), atol=1e-3)


def test_absent_class_stays_at_zero() -> None:
    features = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    weight, bias = fit_head(features, np.arange(40) % 2 * 2, 4)
    assert weight.shape == (4, 3) and bias.shape == (4,)
    assert not weight[[1, 3]].any() and weight[[0, 2]].any()


def test_features_that_hardly_vary_get_no_huge_weights() -> None:
    """A thousandth of their size in variation: weights as for a twentieth, not fifty times as large."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    varying = rng.normal(size=(300, 4)) + labels[:, None]
    size = np.ones((300, 4))
    slight, _ = fit_head((size + 0.001 * varying).astype(np.float32), labels, 2)
    clear, _ = fit_head((size + 0.05 * varying).astype(np.float32), labels, 2)
    assert slight.abs().max() < 2 * clear.abs().max()


@pytest.mark.parametrize("family", ["bert", "roberta", "vit", "resnet"])
def test_features_are_what_the_last_layer_sees(tmp_path, family: str) -> None:
    """Putting the layer on the features by hand gives the model's own logits."""
    trainer = small_trainer(tmp_path, family, rows=24)
    layer = classification_layer(trainer.model)
    rows = Rows(trainer.train_dataset, columns_of(trainer.inputs, labels=False))
    (features,) = head_features(trainer.model, [layer], rows, trainer.inputs.collate, batch_size=5)
    logits = predict_logits(trainer.model, rows, trainer.inputs.collate)
    with torch.no_grad():
        by_hand = layer(torch.tensor(features))
    assert np.allclose(by_hand, logits, atol=1e-5)
    weight, bias = fit_head(features, np.asarray(trainer.train_dataset["label"]), 2)
    set_head(trainer.model, weight, bias)
    warm = predict_logits(trainer.model, rows, trainer.inputs.collate)
    assert np.allclose(warm, features @ weight.numpy().T + bias.numpy(), atol=1e-4)
