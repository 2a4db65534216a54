"""Damaged and hostile files, by what is wrong with them: for tests of refusals, and for benchmarks/attacks.py."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Damage = Callable[[Path], None]
DOCUMENTS = {
    "a list": b"[]",
    "empty": b"",
    "an empty object": b"{}",
    "null": b"null",
    "a number": b"1",
    "cut off": b'{"recipe": {"name": "x", "da',
    "binary": b"\x00\xff\xfe" * 40,
    "of lists": b'{"recipe": [], "metrics": [], "parity": [], "data": [], "artefacts": 3}',
    "of nulls": b'{"recipe": null, "metrics": null, "parity": null, "data": null, "task": null, "method": null}',
    "nested 100,000 deep": b"[" * 100_000,
    "a number of 10,000 digits": b'{"recipe": ' + b"9" * 10_000 + b"}",
}
"""Contents in place of a JSON document."""
SECRETS = {
    "GitHub": "ghp_" + "a1" * 18,
    "GitHub, fine-grained": "github_pat_" + "a1" * 40,
    "GitLab": "glpat-" + "a1" * 10,
    "PyPI": "pypi-AgE" + "a1" * 40,
    "Amazon": "AKIA" + "A1" * 8,
    "Google": "AIza" + "a1_b-" * 7,
    "Slack": "xoxb-" + "1" * 12 + "-" + "a1" * 12,
    "an API": "sk-proj-" + "a1B2" * 12,
    "ssh": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "PGP": "-----BEGIN PGP PRIVATE KEY BLOCK-----",
}
"""What looks like an access token or a private key, by its service. That of Hugging Face is the test Hub's."""
LEVELS = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9))
YAML_BOMBS = {
    "nine anchors of ten": f"a0: &a0 [{', '.join(['x'] * 10)}]\n{LEVELS}\ntrain: {{extra: *a8}}",
    "a list that holds itself": "train: {extra: &a [*a]}",
    "a mapping that holds itself": "train: &a {extra: *a}",
    "merge keys": "a: &a {b: 1}\ntrain: {extra: {<<: [" + ", ".join(["*a"] * 10_000) + "]}}",
    "nested 10,000 deep": "train: " + "[" * 10_000 + "]" * 10_000,
    "blocks nested 1,000 deep": "train:\n" + "".join(" " * n + "a:\n" for n in range(1, 1000)),
    "an unhashable key": "{[1, 2]: 3}",
    "a key that is a mapping": "? {a: 1}\n: 2",
    "a number of 10,000 digits": "train: {seed: " + "9" * 10_000 + "}",
    "a date that is none": "name: 2026-99-99",
    "a python object": "name: !!python/object/apply:os.system [id]",
    "two documents": "name: a\n---\nname: b",
    "binary": "\x00\x01",
    "a base-60 number": "train: {seed: 1:99:99}",
    "a bad binary": "name: !!binary '*'",
    "a set": "train: !!set {a, b}",
    "ordered pairs": "train: !!omap [a: 1]",
}
"""Texts in place of a YAML file of fields."""


def edit_json(path: Path, **entries: Any) -> None:
    """Set entries of a JSON document; None removes one."""
    content = json.loads(path.read_text()) | entries
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def replace(content: bytes, file: str, folder: Path) -> None:
    """Replace the content of a file."""
    (folder / file).write_bytes(content)


def config(folder: Path, **entries: Any) -> None:
    """Set fields of config.json."""
    edit_json(folder / "config.json", **entries)


def tokenizer(folder: Path, **entries: Any) -> None:
    """Set fields of tokenizer_config.json."""
    edit_json(folder / "tokenizer_config.json", **entries)


def cut(file: str, folder: Path) -> None:
    """Cut a file in its middle."""
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: len(content) // 2])


def header(folder: Path, change: Callable[[dict[str, Any]], Any], file: str = "model.safetensors") -> None:
    """Change the header of a file of weights; its data stay."""
    content = (folder / file).read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    entries = json.loads(content[8 : 8 + size])
    text = json.dumps(change(entries) or entries).encode()
    (folder / file).write_bytes(struct.pack("<Q", len(text)) + text + content[8 + size :])


def first(entries: dict[str, Any], **changes: Any) -> None:
    """Change the entry of the first tensor of a header."""
    name = next(name for name in entries if name != "__metadata__")
    entries[name] |= changes


def overlap(entries: dict[str, Any]) -> None:
    """Let two tensors of a header share their bytes."""
    one, other, *_ = (name for name, entry in entries.items() if name != "__metadata__" and entry["shape"] == [32])
    entries[one]["data_offsets"] = entries[other]["data_offsets"]


def many_tensors(folder: Path, file: str = "model.safetensors") -> None:
    """Write a million empty tensors."""
    empty = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    text = ("{" + ",".join(f'"t{n}":{empty}' for n in range(1_000_000)) + "}").encode()
    (folder / file).write_bytes(struct.pack("<Q", len(text)) + text)


def tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any], file: str = "model.safetensors") -> None:
    """Change the tensors of a file."""
    loaded = load_file(folder / file)
    save_file(change(loaded) or loaded, folder / file, metadata={"format": "pt"})


def pickled(content: Any, folder: Path) -> None:
    """Write a pickle in place of safetensors."""
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(content))


def saved(content: Any, folder: Path) -> None:
    """Write a checkpoint of torch.save in place of safetensors."""
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin")


class Payload:
    """Create a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return Path.touch, (self.proof,)


def compressed(folder: Path) -> None:
    """Write a checkpoint of torch.save whose zeros are compressed."""
    saved({"a": torch.zeros(10_000)}, folder)
    path = folder / "pytorch_model.bin"
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def buffer(folder: Path) -> None:
    """Write a checkpoint of torch.save whose pickle makes a buffer of 100 GB in a few bytes."""
    saved({"a": torch.zeros(1)}, folder)
    path = folder / "pytorch_model.bin"
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    number = (100_000_000_000).to_bytes(8, "little")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            made = b"\x80\x02cbuiltins\nbytearray\n\x8a\x08" + number + b"\x85R."
            archive.writestr(name, made if name.endswith("data.pkl") else content)


def serialized(folder: Path, **entries: Any) -> None:
    """Set entries of tokenizer.json."""
    edit_json(folder / "tokenizer.json", **entries)


def added_token(number: int) -> dict[str, Any]:
    """An entry of added_tokens of tokenizer.json."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": number, "content": f"<{number}>", **flags}


class Unknown:
    """A class that no file of weights may name."""


WEIGHT_DAMAGE: dict[str, Damage] = {
    "empty": partial(replace, b"", "model.safetensors"),
    "cut off": partial(cut, "model.safetensors"),
    "header of 2^63 bytes": partial(replace, struct.pack("<Q", 2**63) + b"{}", "model.safetensors"),
    "header of 90 MB that is not there": partial(replace, struct.pack("<Q", 90_000_000) + b"{}", "model.safetensors"),
    "header that is a list": partial(replace, struct.pack("<Q", 2) + b"[]", "model.safetensors"),
    "header without tensors": partial(replace, struct.pack("<Q", 2) + b"{}", "model.safetensors"),
    "header nested deep": partial(replace, struct.pack("<Q", 200_000) + b'{"a":' * 40_000, "model.safetensors"),
    "overlapping offsets": lambda folder: header(folder, overlap),
    "offsets beyond the file": lambda folder: header(folder, partial(first, data_offsets=[0, 10**12])),
    "shape of another size": lambda folder: header(folder, partial(first, shape=[10**6, 10**6])),
    "shape that overflows": lambda folder: header(folder, partial(first, shape=[2**62, 4])),
    "unknown dtype": lambda folder: header(folder, partial(first, dtype="F1")),
    "a million tensors": many_tensors,
    "other names": lambda folder: tensors(folder, lambda t: {f"x.{name}": tensor for name, tensor in t.items()}),
    "other shapes": lambda folder: tensors(folder, lambda t: {name: tensor[:1].clone() for name, tensor in t.items()}),
    "a pickle of a class": partial(pickled, Unknown()),
    "a pickle of a string": partial(pickled, "weights"),
    "torch.save of a class": partial(saved, {"a": Unknown()}),
    "torch.save of a list": partial(saved, [torch.zeros(2)]),
    "torch.save of numbers": partial(saved, {"a": 1}),
    "torch.save of None": partial(saved, None),
    "torch.save of one number as 10^12": partial(saved, {"a": torch.zeros(1).expand(10**12)}),
    "torch.save of a sparse tensor": partial(saved, {"a": torch.eye(3).to_sparse()}),
    "torch.save of tensors, compressed": compressed,
    "torch.save of a buffer of 100 GB": buffer,
}
"""What may be wrong with a file of weights: all of it is refused."""

BIG = 1_000_000
CONFIG_DAMAGE: dict[str, Damage] = {
    **{f"config.json is {name}": partial(replace, content, "config.json") for name, content in DOCUMENTS.items()},
    **{
        f"tokenizer_config.json is {name}": partial(replace, content, "tokenizer_config.json")
        for name, content in DOCUMENTS.items()
    },
    **{f"tokenizer.json is {name}": partial(replace, content, "tokenizer.json") for name, content in DOCUMENTS.items()},
    **{
        f"{field} {value}": partial(config, **{field: value})
        for field in ("num_hidden_layers", "hidden_size", "vocab_size", "max_position_embeddings", "intermediate_size")
        for value in (BIG, 10**15, -1, 0, "three", 1.5)
    },
    **{f"num_attention_heads {value}": partial(config, num_attention_heads=value) for value in (BIG, 0, -1, 5, "x")},
    **{f"type_vocab_size {value}": partial(config, type_vocab_size=value) for value in (10**9, 0, -1, "x")},
    **{f"pad_token_id {value}": partial(config, pad_token_id=value) for value in (10**6, -5, "x", 1.5)},
    **{
        f"{field} {value}": partial(config, **{field: value})
        for field in ("hidden_act", "layer_norm_eps", "hidden_dropout_prob", "initializer_range", "dtype", "is_decoder")
        for value in ("nonsense", -3, [1])
    },
    **{
        f"id2label {value}": partial(config, id2label=value)
        for value in ({"0": "a"}, {"x": "a"}, ["a", "b"], 3, {"0": None, "1": ["x"]}, {"0": "a", "5": "b"})
    },
    **{f"label2id {value}": partial(config, label2id=value) for value in ([1], {"a": "x"}, 7)},
    "200,000 classes": lambda folder: config(folder, id2label={str(n): f"c{n}" for n in range(200_000)}),
    "num_labels 10^9": partial(config, num_labels=10**9),
    **{f"architectures {value}": partial(config, architectures=value) for value in ("x", [3], {"a": 1}, 3)},
    **{f"model_type {value}": partial(config, model_type=value) for value in ("gpt2", "t5", "clip", "", 3, ["bert"])},
    **{
        f"model_max_length {value}": partial(tokenizer, model_max_length=value)
        for value in (-5, 0, 1, "x", 1.5, [1], 10**40, True)
    },
    **{
        f"tokenizer's {field} {value}": partial(tokenizer, **{field: value})
        for field in ("pad_token", "cls_token", "tokenizer_class", "model_input_names", "added_tokens_decoder")
        for value in ("nonsense", 3, ["x"], {"content": 3})
    },
    "tokenizer_config.json without pad_token": partial(tokenizer, pad_token=None),
    "tokenizer.json adds 20,000 tokens": lambda folder: serialized(
        folder, added_tokens=[added_token(number) for number in range(20_000)]
    ),
    "tokenizer.json makes 10^9 letters of one": partial(
        serialized,
        normalizer={
            "type": "Sequence",
            "normalizers": [{"type": "Replace", "pattern": {"Regex": "."}, "content": "a" * 10}] * 9,
        },
    ),
    "tokenizer.json begins texts with 2 MB": partial(serialized, normalizer={"type": "Prepend", "prepend": "a " * BIG}),
    "tokenizer.json has a pattern that backtracks": partial(
        serialized,
        pre_tokenizer={
            "type": "Split",
            "pattern": {"Regex": "((a+)+)+~"},
            "behavior": "Isolated",
            "invert": False,
        },
    ),
    "tokenizer.json pads to 10^9 tokens": partial(
        serialized,
        padding={
            "strategy": {"Fixed": 10**9},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        },
    ),
    "tokenizer.json has no model": lambda folder: edit_json(folder / "tokenizer.json", model=None),
    "tokenizer.json has an empty vocabulary": lambda folder: edit_json(
        folder / "tokenizer.json", model={"type": "WordPiece", "vocab": {}, "unk_token": "[UNK]"}
    ),
}
"""What may be wrong with a config or a tokenizer; some of it is harmless."""

ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
ADAPTER_DAMAGE: dict[str, Damage] = {
    **{f"its config is {name}": partial(replace, content, ADAPTER_CONFIG) for name, content in DOCUMENTS.items()},
    **{f"its config.json is {name}": partial(replace, content, "config.json") for name, content in DOCUMENTS.items()},
    **{
        f"{field} {value}": lambda folder, field=field, value=value: edit_json(
            folder / ADAPTER_CONFIG, **{field: value}
        )
        for field, values in {
            "peft_type": ("LORA", "NONSENSE", 3, None),
            "task_type": ("NONSENSE", "CAUSAL_LM", 3, None),
            "num_virtual_tokens": (-1, 0, 3, "x", 10**9, None),
            "token_dim": (-1, 7, "x", None),
            "num_layers": (-1, 10**7, "x"),
            "base_model_name_or_path": (3, [], "", "/nowhere/else", None),
            "revision": (3, "nonsense"),
            "modules_to_save": (["nowhere"], 3, "x", [3], None),
            "auto_mapping": ({"base_model_class": "x"}, 3),
            "unknown": (1,),
        }.items()
        for value in values
    },
    "a LoRA config of rank -1": lambda folder: edit_json(
        folder / ADAPTER_CONFIG, peft_type="LORA", r=-1, target_modules=["query"]
    ),
    "a LoRA config of rank 10^9": lambda folder: edit_json(
        folder / ADAPTER_CONFIG, peft_type="LORA", r=10**9, target_modules=["query"]
    ),
    "a LoRA config of other modules": lambda folder: edit_json(
        folder / ADAPTER_CONFIG, peft_type="LORA", r=4, target_modules=["nowhere"]
    ),
    "a LoRA config of a bad pattern": lambda folder: edit_json(
        folder / ADAPTER_CONFIG, peft_type="LORA", r=4, target_modules="((("
    ),
    "a LoRA config of rank and modules": lambda folder: edit_json(
        folder / ADAPTER_CONFIG, peft_type="LORA", r=4, target_modules=["query"]
    ),
    "its weights are empty": partial(replace, b"", ADAPTER),
    "its weights are cut off": partial(cut, ADAPTER),
    "its weights are missing": lambda folder: (folder / ADAPTER).unlink(),
    "its weights have other shapes": lambda folder: tensors(
        folder, lambda t: {name: tensor[:1].clone() for name, tensor in t.items()}, ADAPTER
    ),
    "its weights have other names": lambda folder: tensors(
        folder, lambda t: {f"x.{name}": tensor for name, tensor in t.items()}, ADAPTER
    ),
    "its weights lack one": lambda folder: tensors(folder, lambda t: dict(list(t.items())[1:]), ADAPTER),
    "its weights have one more": lambda folder: tensors(
        folder, lambda t: t | {"base_model.more": torch.zeros(2)}, ADAPTER
    ),
    "its weights are none": lambda folder: tensors(folder, lambda t: {"a": torch.zeros(1)}, ADAPTER),
    "its weights are whole numbers": lambda folder: tensors(
        folder, lambda t: {name: tensor.to(torch.int64) for name, tensor in t.items()}, ADAPTER
    ),
    "its weights are NaN": lambda folder: tensors(
        folder, lambda t: {name: tensor * float("nan") for name, tensor in t.items()}, ADAPTER
    ),
    "its header lies": lambda folder: header(folder, partial(first, shape=[10**6, 10**6]), ADAPTER),
    "its weights are a million tensors": partial(many_tensors, file=ADAPTER),
    "its tokenizer_config.json is a list": partial(replace, b"[]", "tokenizer_config.json"),
    "its model_max_length is -5": partial(tokenizer, model_max_length=-5),
    "its model_max_length is text": partial(tokenizer, model_max_length="x"),
    "its model_max_length is missing": partial(tokenizer, model_max_length=None),
    "its model_max_length is 10^30": partial(tokenizer, model_max_length=10**30),
    "id2label is a list": partial(config, id2label=["a", "b"]),
    "id2label has other ids": partial(config, id2label={"x": "a", "y": "b"}),
    "id2label has three classes": partial(config, id2label={"0": "a", "1": "b", "2": "c"}),
}
"""What may be wrong with the adapter of a run; some of it is harmless."""
