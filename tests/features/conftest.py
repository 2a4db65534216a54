"""A tiny encoder whose features are read, and a cache of its own."""

from pathlib import Path

import pytest
from helpers.tiny import tiny_text_checkpoint

from hf_finetune.features.encoder_states import load_encoder


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_FINETUNE_CACHE", str(tmp_path / "cache"))
    load_encoder.cache_clear()


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_text_checkpoint(tmp_path_factory.mktemp("bert"), "bert"))
