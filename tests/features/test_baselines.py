"""The majority and linear baselines on separable rows."""

import io
import logging

import numpy as np
import pytest
from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image

from hf_finetune.evaluation.metrics import classification_metrics
from hf_finetune.features import baselines, table
from hf_finetune.features.baselines import linear_baseline, majority


def texts(rows: int, seed: int, signs: tuple[str, ...] = ("good", "bad", "odd"), **columns: list) -> Dataset:
    """Random words, and a word that gives the class away."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(len(signs), size=rows)
    lines = [" ".join([*rng.choice(list("abcdefgh"), size=6), signs[label]]) for label in labels]
    return Dataset.from_dict({"text": lines, "label": labels, **columns})


def images(rows: int, seed: int, mode: str = "RGB") -> Dataset:
    """Noise with a brighter upper half (class 0) or lower half (class 1)."""
    rng = np.random.default_rng(seed)
    labels, images = rng.integers(2, size=rows), []
    for label in labels:
        pixels = rng.integers(0, 100, size=(20, 30, 3))
        pixels[10 * label : 10 * label + 10] += 80
        buffer = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(buffer, format="PNG")
        images.append({"bytes": buffer.getvalue(), "path": None})
    return Dataset.from_dict({"image": images, "label": labels}).cast_column("image", ImageFeature(decode=False))


def accuracy(probabilities: np.ndarray, rows: Dataset) -> float:
    assert probabilities.shape == (len(rows), probabilities.shape[1])
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(len(rows)))
    return classification_metrics(rows["label"][:], probabilities)["accuracy"]


def test_majority_is_the_share_of_each_class() -> None:
    train = Dataset.from_dict({"label": [2, 0, 2, 2]})
    baseline = majority(train, train.select([0, 1]), num_labels=4)
    assert baseline.name == "majority"
    assert np.array_equal(baseline.scores_NC, [[0.25, 0, 0.75, 0]] * 2)


def test_words_are_learned() -> None:
    test = texts(80, 2)
    baseline = linear_baseline(texts(200, 0), test, num_labels=3)
    assert baseline.name == "tfidf+logistic"
    assert accuracy(baseline.scores_NC, test) == 1


@pytest.mark.parametrize("signs", [("!", "?"), ("好", "坏"), ("ดี", "เลว"), ("👍", "👎"), ("NA", "null")])
def test_signs_that_are_no_latin_words_count(signs: tuple[str, str]) -> None:
    test = texts(60, 1, signs)
    assert accuracy(linear_baseline(texts(150, 0, signs), test, num_labels=2).scores_NC, test) == 1


def test_a_text_without_spaces_is_read_by_character() -> None:
    rng = np.random.default_rng(0)

    def rows(count: int) -> Dataset:
        labels = rng.integers(2, size=count)
        lines = ["".join([*rng.choice(list("天地人山水"), size=8), "好坏"[label], "。"]) for label in labels]
        return Dataset.from_dict({"text": lines, "label": labels})

    train, test = rows(150), rows(60)
    assert accuracy(linear_baseline(train, test, num_labels=2).scores_NC, test) == 1


def test_word_order_counts() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=300)
    rows = Dataset.from_dict(
        {"text": [("not bad but good", "not good but bad")[label] for label in labels], "label": labels}
    )
    assert accuracy(linear_baseline(rows, rows, num_labels=2).scores_NC, rows) == 1


def paired(rows: int, seed: int) -> Dataset:
    """The second text gives the class away, the first one misleads; some second texts are missing."""
    first, second = texts(rows, seed), texts(rows, seed + 100)
    pairs = [None if i % 10 == 9 else text for i, text in enumerate(second["text"])]
    return Dataset.from_dict({"text": first["text"][:], "text_pair": pairs, "label": second["label"][:]})


def test_both_texts_of_a_pair_are_read_apart() -> None:
    test = paired(100, 1)
    probabilities = linear_baseline(paired(300, 0), test, num_labels=3).scores_NC
    there = [i for i in range(100) if i % 10 != 9]
    assert accuracy(probabilities[there], test.select(there)) == 1


def test_second_texts_that_are_all_missing_change_nothing() -> None:
    train, test = texts(90, 0), texts(30, 1)
    alone = linear_baseline(train, test, num_labels=3)
    blank = [train.add_column("text_pair", [""] * 90), test.add_column("text_pair", ["a"] * 30)]
    beside = linear_baseline(blank[0], blank[1], num_labels=3)
    assert np.array_equal(alone.scores_NC, beside.scores_NC)


def test_the_same_twice() -> None:
    train, test = texts(120, 0), texts(40, 1)
    one, other = (linear_baseline(train, test, num_labels=3).scores_NC for _ in range(2))
    assert np.array_equal(one, other)


def test_a_class_without_training_rows_keeps_its_column() -> None:
    train = texts(150, 0, ("good", "bad")).map(lambda row: {"label": row["label"] * 2})
    probabilities = linear_baseline(train, texts(20, 1), num_labels=4).scores_NC
    assert probabilities.shape == (20, 4)
    assert not probabilities[:, [1, 3]].any()
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(20))


def test_many_characters_are_cut_and_it_is_said(monkeypatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(baselines, "MAX_CHARACTERS", 1500)
    monkeypatch.setattr(baselines, "MIN_ROWS", 10)
    train, test = texts(400, 0), texts(40, 1)
    with caplog.at_level(logging.INFO, logger="hf_finetune"):
        probabilities = linear_baseline(train, test, num_labels=3).scores_NC
    # 11 characters and a space, then a sign of 3 or 4: at least 15 a row.
    assert caplog.messages == ["linear baseline: fitted on 97 of 400 training rows (1500 characters)"]
    assert accuracy(probabilities, test) > 0.9


def test_the_beginning_of_a_long_text_is_read(monkeypatch) -> None:
    """Whatever their length, MIN_ROWS texts are read: 50 of a million characters took plan 13 s."""
    monkeypatch.setattr(table, "LONG_TEXT", 16)
    train, test = texts(60, 0), texts(5, 1)
    longer = train.map(lambda row: {"text": row["text"].ljust(16) + " more words"})
    expected = linear_baseline(train, test, num_labels=3).scores_NC
    assert np.array_equal(linear_baseline(longer, test, num_labels=3).scores_NC, expected)


def test_a_few_long_texts_are_all_kept(monkeypatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(baselines, "MAX_CHARACTERS", 10)
    with caplog.at_level(logging.INFO, logger="hf_finetune"):
        linear_baseline(texts(60, 0), texts(5, 1), num_labels=3)
    assert caplog.messages == []


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1"])
def test_pixels_are_learnt(mode: str) -> None:
    test = images(40, 1, mode)
    baseline = linear_baseline(images(100, 0, mode), test, num_labels=2)
    assert baseline.name == "pixels+logistic"
    assert accuracy(baseline.scores_NC, test) > 0.9


def test_many_images_are_cut(monkeypatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(baselines, "MAX_IMAGES", 30)
    monkeypatch.setattr(baselines, "MIN_ROWS", 10)
    with caplog.at_level(logging.INFO, logger="hf_finetune"):
        linear_baseline(images(50, 0), images(5, 1), num_labels=2)
    assert caplog.messages == ["linear baseline: fitted on 30 of 50 training rows (30 images)"]


def test_kmers_of_sequences() -> None:
    """A motif of six letters at a random place: words and word pairs would be whole sequences."""
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=300)
    lines = ["".join(rng.choice(list("ACGT"), 60)) for _ in labels]
    lines = [
        f"{line[:i]}{'TATAAT' * label}{line[i:]}" for line, label, i in zip(lines, labels, labels * 7, strict=True)
    ]
    rows = Dataset.from_dict({"text": lines, "label": labels})
    baseline = linear_baseline(rows.select(range(200)), rows.select(range(200, 300)), num_labels=2)
    assert baseline.name == "5-mers+logistic"
    assert accuracy(baseline.scores_NC, rows.select(range(200, 300))) > 0.8


def test_all_kmers_occur_ten_times_on_average() -> None:
    assert [table.longest_kmer(np.array([n]), "ACGT") for n in (159, 160, 639, 640, 10**9)] == [1, 2, 2, 3, 8]
    assert table.longest_kmer(np.array([80_000]), "ACDEFGHIKLMNPQRSTVWY") == 3
