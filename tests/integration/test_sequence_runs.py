"""A whole run on DNA: a tokenizer of its own, pretraining from random weights, both strands, plain transformers."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny import tiny_esm_checkpoint
from safetensors.torch import load_file
from transformers import pipeline as plain_pipeline

import hf_finetune
from hf_finetune import (
    Batching,
    Classifier,
    Evaluate,
    InputError,
    KmerTokenizer,
    Launch,
    MaskedLanguage,
    Model,
    Precision,
    Pretrain,
    Recipe,
    ReverseComplement,
    TextData,
    Train,
)
from hf_finetune.cli.train import TrainJob, parse_train
from hf_finetune.pipeline.run import run

pytestmark = pytest.mark.usefixtures("gate_here")
SMALL = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}


def fasta(path: Path, rows: int, seed: int) -> None:
    """Half of the sequences have the letters TATAAT at a random place."""
    rng = np.random.default_rng(seed)
    lines = []
    for i in range(rows):
        letters, at = "".join(rng.choice(list("acgt"), 20)), int(rng.integers(20))
        lines.append(f">{i}|{('other', 'motif')[i % 2]}\n{letters[:at]}{'TATAAT' * (i % 2)}{letters[at:]}N")
    path.write_text("\n".join(lines))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    folder = tmp_path_factory.mktemp("dna")
    fasta(folder / "train.fasta", 60, 0)
    fasta(folder / "more.fa", 30, 1)
    return Recipe(
        name="dna",
        data=TextData(path=str(folder / "train.fasta"), sequence="dna", max_length=32, augment=(ReverseComplement(),)),
        model=Model(checkpoint="bert", from_config=SMALL, tokenizer=KmerTokenizer(k=3)),
        pretrain=Pretrain(MaskedLanguage(span=3), rows=(str(folder / "more.fa"),), num_train_epochs=1.0),
        train=Train(num_train_epochs=1.0, learning_rate=3e-3),
        batching=Batching(rows_per_step=16),
        precision=Precision(probe=False),
        evaluate=Evaluate(resamples=100),
    )


def test_a_run_on_dna(recipe: Recipe, tmp_path: Path) -> None:
    result = run(recipe, Launch(str(tmp_path / "run")))
    assert result is not None
    config = json.loads((tmp_path / "run/model/config.json").read_text())
    assert config["sequence"] == "dna" and config["vocab_size"] == 4**3 + 5 and "hf-finetune-" not in json.dumps(config)
    assert result["pretrain"]["rows"]["of_further"] == 30
    assert result["baselines"]["linear"]["name"].endswith("-mers+logistic")
    texts = ["acg tacgtnacgtacg", "TATAATGGCATTACGA"]
    clf = Classifier.load(tmp_path / "run")
    plain = plain_pipeline("text-classification", str(tmp_path / "run/model"), top_k=None)
    for text, row in zip(texts, clf.predict_proba(texts), strict=True):
        scores = {each["label"]: each["score"] for each in plain([text])[0]}
        assert [scores[label] for label in clf.labels] == pytest.approx(row.tolist(), abs=1e-5)
    # Both strands of a sequence have one prediction, which is the mean.
    strands = ["AACCGGTACTTAC", "GTAAGTACCGGTT"]
    assert clf.predict_proba(strands, reverse_complement=True) == pytest.approx(
        np.tile(clf.predict_proba(strands).mean(axis=0), (2, 1)), abs=1e-6
    )
    assert clf.evaluate(recipe.data.path, reverse_complement=True)["views"]["number"] == 2
    with pytest.raises(InputError, match="letter 3 is 'E'"):
        clf.predict(["ACEGT"])


def test_the_defaults_of_sequences() -> None:
    job = parse_train(TrainJob, ["x.csv", "--sequence", "dna"], "train")
    assert (job.recipe.model.checkpoint, job.recipe.data.sequence) == (
        "modernbert",
        "dna",
    ) and job.recipe.model.tokenizer
    job = parse_train(TrainJob, ["x.csv", "--sequence", "protein", "--model", "lab/esm"], "train")
    assert job.recipe.model == Model(checkpoint="lab/esm") and job.recipe.data.max_length == 512
    job = parse_train(TrainJob, ["x.csv", "--sequence", "dna", "--tokenizer", "{type: KmerTokenizer, k: 4}"], "train")
    assert job.recipe.model.tokenizer == KmerTokenizer(k=4)


def test_from_python(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"row 0.*column 'text': letter 2 is 'E'"):
        hf_finetune.train((["HELLO", "ACGT"] * 6, ["a", "b"] * 6), sequence="dna", output=tmp_path / "x")
    assert not (tmp_path / "x").exists()
    with pytest.raises(InputError, match=r"pretrain.objective, which needs a checkpoint, or a model.tokenizer"):
        run(replace(recipe, model=Model(checkpoint="bert", from_config=SMALL)), Launch(str(tmp_path / "x")))


@pytest.mark.parametrize("method", ["top", "lora"])
def test_proteins_by_an_esm(method: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    proteins = ["M" + "".join(rng.choice(list("ACDEFGHIKLNPQRSTVWY"), 12)) + "w" * (i % 2) for i in range(32)]
    (tmp_path / "data.csv").write_text("seq,label\n" + "".join(f"{p},{'ab'[i % 2]}\n" for i, p in enumerate(proteins)))
    recipe = Recipe(
        name="esm",
        data=TextData(path=str(tmp_path / "data.csv"), sequence="protein", max_length=32),
        model=Model(checkpoint=str(tiny_esm_checkpoint(tmp_path / "esm")), top_layers=1),
        method=method,
        train=Train(num_train_epochs=1.0, learning_rate=1e-2),
        batching=Batching(rows_per_step=8),
        precision=Precision(probe=False),
        evaluate=Evaluate(resamples=100, plots=False),
    )
    result = run(recipe, Launch(str(tmp_path / "run")))
    assert result is not None and result["standalone"] and result["parity"]["reload"]["ok"]
    before = load_file(tmp_path / "esm/model.safetensors")
    after = load_file(tmp_path / "run/model/model.safetensors")
    changed = {n.split(".")[3] for n in before if ".layer." in n and not torch.equal(before[n], after[n])}
    assert changed == ({"2"} if method == "top" else {"0", "1", "2"})
    assert Classifier.load(tmp_path / "run").predict("mkv W*") in ("a", "b")
