"""Compressed files are read as what they hold; damage and bombs are one line."""

import gzip
from pathlib import Path

import pyarrow as pa
import pytest
from helpers.data_files import error_of, noted
from helpers.loading import load, locate

from hf_finetune.data.config import DataLimits
from hf_finetune.data.readers.compressed import bare_stem, format_of

CSV = "text,label\n" + "".join(f"text {i},{'no' if i % 2 else 'yes'}\n" for i in range(20))
JSONL = "".join(f'{{"text": "text {i}", "label": {i % 2}}}\n' for i in range(20))


def compressed(path: Path, content: bytes) -> Path:
    packed = gzip.compress(content) if path.suffix == ".gz" else pa.compress(content, codec="zstd", asbytes=True)
    path.write_bytes(packed)
    return path


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", CSV), ("a.tsv", CSV.replace(",", "\t")), ("a.jsonl", JSONL), ("A.JSON", JSONL)]
)
def test_compressed_files_have_the_rows_of_what_they_hold(tmp_path: Path, name: str, content: str, suffix: str) -> None:
    (tmp_path / name).write_text(content)
    plain, packed = load(tmp_path / name), load(compressed(tmp_path / f"{name}{suffix}", content.encode()))
    assert packed.fingerprint == plain.fingerprint and len(packed.labels) == 2


def test_members_that_follow_one_another_are_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(CSV.encode()) + gzip.compress(b"last,no\n"))
    assert len(load(path).train) == 19


def test_compressed_splits_of_a_folder(tmp_path: Path) -> None:
    for split in ("train", "test"):
        compressed(tmp_path / f"{split}.csv.gz", CSV.replace("text ", f"{split} ").encode())
    assert set(locate(tmp_path).splits) == {"train", "test"}
    compressed(tmp_path / "validation-00000-of-00001.jsonl.zst", JSONL.encode())
    compressed(tmp_path / "dev.parquet.gz", b"not searched for")
    splits = locate(tmp_path)
    assert set(splits.splits) == {"train", "test", "validation"}
    assert splits.notes == (f"ignored in the folder {tmp_path.name}: dev.parquet.gz",)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_damage_is_one_line(tmp_path: Path, suffix: str) -> None:
    path = compressed(tmp_path / f"a.csv{suffix}", CSV.encode() * 50)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert "damaged, it cannot be decompressed" in error_of(path)
    path.write_bytes(CSV.encode())
    assert "damaged, it cannot be decompressed" in error_of(path)
    path.write_bytes(b"")
    assert "the file is empty" in error_of(path)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize(
    ("name", "line"), [("a.csv", b"same,no\n"), ("a.json", b" "), ("a.jsonl", b"\n"), ("a.csv", b"x")]
)
def test_a_bomb_is_refused_as_it_is_counted(tmp_path: Path, name: str, line: bytes, suffix: str) -> None:
    path = compressed(
        tmp_path / f"{name}{suffix}", (CSV.encode() if name == "a.csv" else b"") + line * (4_000_000 // len(line))
    )
    limits = DataLimits(decoded_bytes=1_000_000, blank_lines=4_000_000)
    message = error_of(path, limits=limits)
    assert (
        message.startswith(f"{path}: it decodes to more than 1,000,000 bytes")
        and "--data.limits.decoded-bytes" in message
    )


def test_undecodable_bytes_have_the_line_of_the_text(tmp_path: Path) -> None:
    path = compressed(tmp_path / "a.csv.gz", CSV.encode() + b"caf\xe9,no\n")
    assert f"{path}, line 22: byte 0xe9 is not utf-8; name the file's encoding: --data.encoding cp1252" in error_of(
        path
    )
    assert len(load(path, encoding="cp1252").train) == 19


def test_other_compressed_files_name_what_is_read(tmp_path: Path) -> None:
    for name in ("a.parquet.gz", "a.xlsx.zst", "a.gz"):
        assert (
            "of compressed files only .csv .tsv .json .jsonl .fasta .conll .iob .iob2 .bio are read; decompress it"
            in error_of(compressed(tmp_path / name, b"x"))
        )


def test_the_delimiter_is_told_through_the_compression(tmp_path: Path) -> None:
    assert noted(load(compressed(tmp_path / "a.csv.gz", CSV.replace(",", ";").encode())), "separated by semicolons")


@pytest.mark.parametrize(
    ("name", "suffix", "stem"),
    [
        ("a.csv.gz", ".csv", "a"),
        ("A.B.JSONL.ZST", ".jsonl", "A.B"),
        ("a.csv", ".csv", "a"),
        ("a.gz", ".gz", "a"),
        (".gz", "", ".gz"),
    ],
)
def test_names(name: str, suffix: str, stem: str) -> None:
    assert (format_of(Path(name)), bare_stem(Path(name))) == (suffix, stem)
