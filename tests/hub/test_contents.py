"""What a push never sends: pickles, code, checkpoints, tokens, links, and runs without a passed parity gate."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from helpers.damage import SECRETS
from helpers.hub_bench import Bench
from helpers.hub_routes import new_token
from helpers.hub_run import example_result
from safetensors.numpy import save_file

from hf_finetune.errors import GateError, InputError
from hf_finetune.hub import contents
from hf_finetune.utils.manifest import Manifest


def refused(bench: Bench, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        bench.push()
    assert bench.server.token not in str(caught.value) and "\n" not in str(caught.value)
    assert bench.server.requests == []


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin",
        "training_args.bin",
        "x.PT",
        "optimizer.bin",
        "sub/rng_state_0.pth",
        "head.pkl",
        "modeling.py",
        "checkpoint-5/config.json",
        "log.jsonl",
        "train.log",
        "runs/events.out.tfevents.1",
    ],
)
@pytest.mark.parametrize("folder", ["model", "adapter"])
def test_names_that_are_refused(bench: Bench, name: str, folder: str) -> None:
    path = bench.run / folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x")
    refused(bench, "never pushed")


def test_a_pickle_is_known_by_its_content(bench: Bench) -> None:
    import pickle

    import torch

    (bench.run / "model" / "vocab.dat").write_bytes(pickle.dumps({"a": 1}))
    refused(bench, "vocab.dat: .*pickle")
    torch.save({"a": torch.ones(2)}, bench.run / "model" / "vocab.dat")
    refused(bench, "vocab.dat: .*pickle")
    (bench.run / "model" / "vocab.dat").unlink()
    (bench.run / "model" / "more.safetensors").write_bytes(pickle.dumps({"a": 1}))
    refused(bench, "more.safetensors: .*pickle")


@pytest.mark.parametrize("service", SECRETS)
def test_tokens_of_other_services_are_refused(bench: Bench, service: str) -> None:
    """A card that quotes the command may quote them."""
    card = bench.run / "README.md"
    card.write_text(f"{card.read_text()} key={SECRETS[service]};")
    refused(bench, "README.md: it contains an access token or a private key")


def test_words_that_look_like_tokens_are_none(bench: Bench) -> None:
    card = bench.run / "README.md"
    card.write_text(
        f"{card.read_text()} {'task-' + 'a1' * 30} sk-learn AKIA {'X' * 4}{'AKIA' + 'A1' * 8} glpat-1 hf_finetune"
    )
    assert bench.push()


@pytest.mark.parametrize("name", ["model/rows.csv", "model/id_rsa", "model/../rows.csv", "model/vocab/../../rows.txt"])
def test_a_file_that_was_added_to_the_manifest(bench: Bench, name: str) -> None:
    """Whoever adds a file may write its hash into result.json."""
    for path in bench.run.rglob("*.bin"):
        path.unlink()
    (bench.run / "model" / "vocab").mkdir()
    (bench.run / name).write_bytes(b"mine")
    result = json.loads((bench.run / "result.json").read_text())
    result["artifacts"] = Manifest.of(bench.run).hashes | {name: hashlib.sha256(b"mine").hexdigest()}
    (bench.run / "result.json").write_text(json.dumps(result))
    refused(bench, "not a file of a model, a tokenizer or an image processor|expected the SHA-256 of each file")


def test_tokens_in_files_are_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    token = bench.server.token
    for name in ("README.md", "result.json", "model/tokenizer.json", "adapter/adapter_config.json"):
        path = bench.run / name
        before = path.read_text()
        path.write_text(before.replace("{", '{"x": "' + token + '", ', 1) if name.endswith("json") else before + token)
        refused(bench, "access token")
        path.write_text(before)
    other = bench.run / "model" / "vocab.txt"
    other.write_text(f"someone else's: {new_token()}")
    refused(bench, r"vocab\.txt: .*access token")
    other.unlink()
    weights = bench.run / "model" / "model.safetensors"
    save_file({"w": np.zeros(3)}, weights, metadata={"format": "pt", "note": token})
    refused(bench, r"model\.safetensors: .*access token")
    # Across the edge of two chunks.
    monkeypatch.setattr(contents, "CHUNK_BYTES", 1000)
    for start in (970, 990, 999):
        weights.write_bytes((8).to_bytes(8, "little") + b"{}".ljust(start - 8) + token.encode() + b" " * 2000)
        refused(bench, "access token")
    monkeypatch.setenv("HF_TOKEN", "an_unusual_token_of_another_shape")
    weights.write_bytes((8).to_bytes(8, "little") + b"{} an_unusual_token_of_another_shape")
    refused(bench, "access token")


def test_a_link_out_of_the_run_is_refused(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("mine")
    (bench.run / "model" / "vocab.txt").symlink_to(tmp_path / "secret.txt")
    refused(bench, "a link out of the run's folder")


@pytest.mark.parametrize("name", ["result.json", "recipe.json", "README.md"])
def test_an_unfinished_run_is_refused(bench: Bench, name: str) -> None:
    (bench.run / name).unlink()
    refused(bench, f"no {name}")


def test_a_run_without_a_model_is_refused(bench: Bench, tmp_path: Path) -> None:
    import shutil

    shutil.rmtree(bench.run / "model")
    shutil.rmtree(bench.run / "adapter")
    refused(bench, "no model/")
    (bench.run / "result.json").write_text("{")
    refused(bench, "not valid JSON")


@pytest.mark.parametrize("parity", [{"reload": {"ok": True}, "adapter": {"ok": False}}, {"reload": {}}, {}, None])
def test_a_failed_gate_stops_the_push(bench: Bench, parity: dict | None) -> None:
    (bench.run / "result.json").write_text(json.dumps({**example_result(), "parity": parity}))
    with pytest.raises(GateError, match="parity check"):
        bench.push()
    assert bench.server.requests == []


def test_a_custom_head_is_pushed(bench: Bench) -> None:
    (bench.run / "model").rename(bench.run / "encoder")
    save_file({"w": np.zeros(3)}, bench.run / "head.safetensors")
    bench.push()
    assert {"encoder/config.json", "encoder/model.safetensors", "head.safetensors"} <= set(bench.files())
    assert "config.json" not in bench.files()


def test_a_plot_that_is_a_link_out_of_the_folder_is_refused(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("mine")
    (bench.run / "plots").mkdir()
    (bench.run / "plots" / "reliability.svg").symlink_to(tmp_path / "secret.txt")
    refused(bench, "reliability.svg: a link out of the run's folder")
