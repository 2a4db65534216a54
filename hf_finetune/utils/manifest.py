"""The manifest of a finished run: the SHA-256 of each file of its artifacts, under `artifacts` in its result.json.

Its paths are those in the run's folder, `model/config.json`. In the repository of a pushed run the files of model/ lie
at the root.
"""

import fnmatch
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Self, cast, get_args

from hf_finetune.errors import GateError, InputError
from hf_finetune.utils import hashing
from hf_finetune.utils.artifacts import EXAMPLE_FILE, HEAD_FILE, artifacts_in
from hf_finetune.utils.files import read_json
from hf_finetune.utils.messages import printable

logger = logging.getLogger("hf_finetune")

Part = Literal["model", "encoder", "adapter", "classical", "onnx"]
"""Folder of an artifact; head.safetensors belongs to encoder/."""
State = Literal["ok", "changed", "missing", "added"]
SHA256 = re.compile(r"[0-9a-f]{64}")
# Files at the root of a repository that libraries would load with the model.
WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "*.index.json")
TOKENIZER = ("*token*.json", "*vocab*", "merges*", "*.model", "*.spm", "*.codes", "*.tiktoken", "normalizer.json")
LOADED_FROM_ROOT = (*WEIGHTS, *TOKENIZER, "*config*.json", "emoji.json", "modules.json", "*.jinja", "*.py")
FROM_BEFORE = "its result.json is of an earlier version and lists no artifacts"


@dataclass(frozen=True)
class Manifest:
    """The manifest of a run, or of a part of it."""

    run: Path
    """The run's folder, or a copy of its repository."""
    hashes: dict[str, str]
    """SHA-256 by path in the run's folder."""
    part: Part | None = None
    """The artifact to check; None: all."""

    @classmethod
    def of(cls, run: Path) -> Self:
        """Hash the artifacts of a run's folder."""
        return cls(run, {file: hashing.of_files(run / file) for file in _files_in_folders(run)})

    @classmethod
    def find(cls, folder: Path) -> Self | None:
        """Return the manifest of a run's folder, of one of its artifacts (`RUN/model`), or of a copy of its repository.

        Returns:
            None for any other folder; and, with a warning, for an unfinished run, or one of an earlier version.

        Raises:
            InputError: result.json is damaged.
        """
        part: Part | None = None
        run, resolved = folder, folder.resolve()
        # A run's own folder may have the name of an artifact, too, beside somebody's recipe.json.
        is_artifact = (resolved.parent / "result.json").is_file() or (
            (resolved.parent / "recipe.json").is_file() and not (resolved / "recipe.json").is_file()
        )
        if resolved.name in _parts(resolved.parent) and is_artifact:
            run, part = resolved.parent, cast(Part, resolved.name)
        # Without a recipe.json, result.json may be a file of another program.
        is_run = (run / "recipe.json").is_file()
        try:
            manifest = cls.read(run)
        except InputError:
            if not is_run:
                return None
            if (run / "result.json").exists():
                raise
            _warn_once(
                run.resolve(), f"{run}: the run in it is not finished (no result.json): its files are not checked"
            )
            return None
        if manifest is None and is_run:
            _warn_once(run.resolve(), f"{run}: {FROM_BEFORE}: its files are not checked")
        return None if manifest is None else replace(manifest, part=part)

    @classmethod
    def read(cls, run: Path) -> Self | None:
        """Read the manifest of a run's folder; None if it has none.

        Raises:
            InputError: there is no result.json, or it is damaged.
        """
        result = read_result(run)
        if "artifacts" not in result:
            return None
        return cls(run, _checked(result["artifacts"], run / "result.json"))

    def location(self, file: str) -> Path:
        """Return where a file lies."""
        return self.run / (file.removeprefix("model/") if self._at_root else file)

    def states(self, patterns: Sequence[str] = ("*",), *, hashed: Mapping[Path, str] | None = None) -> dict[str, State]:
        """Compare the files on the disk with the manifest.

        Args:
            patterns: names of the files to compare; others may be missing, and are not read.
            hashed: SHA-256 of files that were hashed just now, by their `location`; they are not read again.

        Returns:
            The state of each file, by its path in the run's folder.
        """

        def chosen(file: str) -> bool:
            belongs = self.part is None or _part_of(file) == self.part
            return belongs and any(fnmatch.fnmatch(PurePosixPath(file).name, pattern) for pattern in patterns)

        states = {file: self._state(file, hashed or {}) for file in filter(chosen, sorted(self.hashes))}
        states |= {file: "added" for file in filter(chosen, self._present()) if file not in self.hashes}
        return states

    def check(
        self,
        patterns: Sequence[str] = ("*",),
        *,
        hashed: Mapping[Path, str] | None = None,
        name: str | None = None,
        remedy: str | None = None,
    ) -> None:
        """Compare the files with the manifest, see `states`, and refuse differences, see `refuse`."""
        self.refuse(self.states(patterns, hashed=hashed), name=name, remedy=remedy)

    def refuse(self, states: Mapping[str, State], *, name: str | None = None, remedy: str | None = None) -> None:
        """Refuse files that are not those that the run wrote.

        Args:
            name: of the run in messages. None: its folder.
            remedy: None: that of a local folder.

        Raises:
            GateError: naming the first such file.
        """
        failed = [(file, state) for file, state in states.items() if state != "ok"]
        if not failed:
            return
        file, state = failed[0]
        path = self.location(file)
        place = printable(str(path)) if name is None else f"{name}: {printable(str(path.relative_to(self.run)))}"
        faults: dict[State, str] = {
            "changed": "not the file that the run wrote (another SHA-256 than in result.json)",
            "missing": "missing, but listed in result.json",
            "added": "not a file that the run wrote (not listed in result.json)",
        }
        more = f", and {len(failed) - 1} more (`hf-finetune verify` lists them)" if len(failed) > 1 else ""
        verb = "remove" if state == "added" else "restore"
        use = "a changed model can be used from a folder outside of the run"
        raise GateError(f"{place}: {faults[state]}{more}; {remedy or f'{verb} it, or train again; {use}'}")

    @property
    def _at_root(self) -> bool:
        return not (self.run / "model").is_dir()

    def _state(self, file: str, hashed: Mapping[Path, str]) -> State:
        path = self.location(file)
        try:
            if not path.is_file():
                return "missing" if not path.exists() else "changed"
            digest = hashed[path] if path in hashed else hashing.of_files(path)
            return "ok" if digest == self.hashes[file] else "changed"
        except OSError as error:
            raise InputError(f"{printable(str(path))}: cannot be read ({error.strerror}); check its rights") from None

    def _present(self) -> Iterator[str]:
        """Yield the files of the artifacts on the disk."""
        yield from _files_in_folders(self.run)
        if not (self.run / "config.json").exists():
            return
        if not self._at_root:
            # It would be loaded in place of model/.
            yield "config.json"
            return
        for path in sorted(self.run.iterdir()):
            is_loaded = any(fnmatch.fnmatch(path.name, pattern) for pattern in LOADED_FROM_ROOT)
            if is_loaded and path.name != HEAD_FILE and not path.is_dir() and not path.name.startswith("."):
                yield f"model/{path.name}"


def read_result(run: Path) -> dict[str, Any]:
    """Return the content of a run's result.json.

    Raises:
        InputError: there is none, or it is damaged.
    """
    path, remedy = run / "result.json", "restore it, or train again"
    if not path.exists():
        raise InputError(f"{run}: no result.json; expected the folder of a finished run")
    if not (result := read_json(path, remedy)):
        raise InputError(f"{path}: expected the result of a run, got {{}}; {remedy}")
    return result


def _checked(artifacts: Any, path: Path) -> dict[str, str]:
    """Return a manifest from a file, which may come from others: its paths must not lead out of the artifacts."""
    if isinstance(artifacts, dict) and all(map(_is_entry, artifacts, artifacts.values())):
        return artifacts
    raise InputError(
        f"{path}: artifacts: expected the SHA-256 of each file of model/, adapter/, encoder/ or classical/"
    )


def _is_entry(file: Any, sha256: Any) -> bool:
    parts = file.split("/")
    in_part = len(parts) > 1 and parts[0] in get_args(Part) and not {"", ".", ".."} & set(parts) and "\\" not in file
    return (in_part or file == HEAD_FILE) and isinstance(sha256, str) and SHA256.fullmatch(sha256) is not None


def _part_of(file: str) -> str:
    return "encoder" if file == HEAD_FILE else file.split("/")[0]


def _files_in_folders(run: Path) -> Iterator[str]:
    """Yield the paths of the files of the artifacts, except hidden ones and an artifact's own README.md."""
    for part in _parts(run):
        for path in sorted((run / part).rglob("*")):
            relative = path.relative_to(run / part)
            is_hidden = any(name.startswith(".") for name in relative.parts)
            if (
                not is_hidden
                and str(relative) not in ("README.md", EXAMPLE_FILE)
                and (path.is_symlink() or not path.is_dir())
            ):
                yield f"{part}/{relative.as_posix()}"
    if (run / HEAD_FILE).exists():
        yield HEAD_FILE


def _parts(run: Path) -> tuple[str, ...]:
    """Return the names of the folders that may hold artifacts: onnx/ is one only where it is the result itself."""
    parts = get_args(Part)
    return parts if "onnx" in artifacts_in(run) else tuple(part for part in parts if part != "onnx")


@cache
def _warn_once(run: Path, message: str) -> None:
    """Log a warning the first time: a command may look at a run several times."""
    logger.warning(message)
