"""Push a finished run to the Hub in one commit, without secrets, then pull it and compare."""

from __future__ import annotations

import fnmatch
import hashlib
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token, is_offline_mode
from huggingface_hub.errors import HFValidationError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from hf_finetune.config.recipe import Hub
from hf_finetune.errors import GateError, InputError
from hf_finetune.hub import plots
from hf_finetune.hub.contents import ALWAYS_PUSHED, Outgoing, collect
from hf_finetune.hub.eval_results import FILES, LARGEST_BYTES, is_ours
from hf_finetune.hub.retry import Retries
from hf_finetune.utils import hashing
from hf_finetune.utils.hub_requests import first_line
from hf_finetune.utils.manifest import LOADED_FROM_ROOT, Manifest

logger = logging.getLogger("hf_finetune.run")

# A push deletes the files in them of an earlier push: they would load as a part of the new model.
FOLDERS_OF_A_RUN = ("adapter", "encoder", "classical")


@dataclass(frozen=True)
class Pushed:
    """The content of a run on the Hub."""

    url: str
    """Page of the repository, its branch, or the pull request."""
    repo_id: str
    revision: str
    """Branch, or refs/pr/<n>."""
    commit: str
    created: bool
    """False: the Hub already had this content, and no commit was made."""
    files: dict[str, str]
    """SHA-256 by path in the repository."""


def push(
    run_dir: Path,
    target: Hub,
    *,
    include_predictions: bool = False,
    endpoint: str | None = None,
    check: Callable[[Path], None] | None = None,
) -> Pushed:
    """Send a finished run to the Hub in exactly one commit, then pull it and compare every byte.

    Each attempt reads the head of the branch, and its commit names that head as its parent: no failure leads to a
    second commit with the same content, and a repeated push changes nothing. `contents.collect` chooses the files.

    Args:
        target: the repository and branch, created if they do not exist.
        include_predictions: also send predictions.parquet, which quotes the user's labels.
        endpoint: URL of another Hub than that of HF_ENDPOINT.
        check: called with the folder of the pulled copy; raises if that is not the same model.

    Raises:
        InputError: see `check_target` and `contents.collect`.
        GateError: a parity check of the run failed, or the pulled copy differs.
        PushError: the Hub kept failing.
    """
    repo_id, token = check_target(target)
    files = collect(run_dir, repo_id, include_predictions=include_predictions, benchmark=target.benchmark, token=token)
    api = HfApi(endpoint=endpoint, token=token, library_name="hf_finetune")
    retries = Retries(repo_id, token)
    with _without_upstream_warnings():
        retries(lambda: _prepare_repository(api, repo_id, target))
        attempt = _Push(api, repo_id, target.revision or "main", files)
        pushed = retries(attempt.pull_request if target.create_pr else attempt.commit)
    logger.info("%s: %s", pushed.url, "pushed" if pushed.created else "already has the same content")
    with tempfile.TemporaryDirectory(prefix="hf_finetune_pull_") as name:
        pulled = Path(name) / "pulled"
        Retries(repo_id, token, reached=True)(
            lambda: api.snapshot_download(
                repo_id, revision=pushed.commit, local_dir=pulled, cache_dir=Path(name) / "cache"
            )
        )
        hashed = _compare(pulled, pushed)
        if (manifest := Manifest.read(pulled)) is not None:
            manifest.check(hashed=hashed, name=repo_id, remedy="push again")
        if check is not None:
            check(pulled)
    return pushed


def _compare(pulled: Path, pushed: Pushed) -> dict[Path, str]:
    """Compare the pulled files with those that were sent; return the SHA-256 of each."""
    for path, sha256 in pushed.files.items():
        if not (pulled / path).is_file():
            raise GateError(f"{pushed.repo_id}: {path} was sent but is missing in commit {pushed.commit}")
        if hashing.of_files(pulled / path) != sha256:
            raise GateError(f"{pushed.repo_id}: {path} of commit {pushed.commit} is not what was sent")
    return {pulled / path: sha256 for path, sha256 in pushed.files.items()}


def check_target(target: Hub) -> tuple[str, str]:
    """Check the target of a push without asking the Hub.

    Returns:
        The repository's id and the user's token.

    Raises:
        InputError: a bad repository name, contradicting flags, offline mode, or no token.
    """
    repo_id = target.repo_id or ""
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"{repo_id}: not a repository name: {first_line(error)}") from None
    if repo_id.count("/") != 1:
        raise InputError(f"{repo_id}: expected your-name/its-name")
    if target.create_pr and target.revision not in (None, "main"):
        raise InputError(
            f"--revision {target.revision}: expected none with --create-pr, which opens a pull request against main"
        )
    if is_offline_mode():
        raise InputError("HF_HUB_OFFLINE is set: unset it to push")
    token = get_token()
    if token is None:
        raise InputError("no Hugging Face token: run `hf auth login`, or set HF_TOKEN")
    return repo_id, token


def _prepare_repository(api: HfApi, repo_id: str, target: Hub) -> None:
    """Create the repository and the branch if they do not exist; may be repeated."""
    if not api.repo_exists(repo_id):
        api.create_repo(repo_id, private=True if target.private else None, exist_ok=True)
    if target.private and not api.repo_info(repo_id).private:
        raise InputError(f"{repo_id}: exists and is public; make it private in its settings, or leave --private out")
    branch = target.revision
    if branch is None or target.create_pr or branch.startswith("refs/"):
        return
    if branch not in {existing.name for existing in api.list_repo_refs(repo_id).branches}:
        api.create_branch(repo_id, branch=branch, exist_ok=True)


@dataclass
class _Push:
    """A push of a run to a branch or a pull request; its steps may be repeated."""

    api: HfApi
    repo_id: str
    revision: str
    files: dict[str, Outgoing]
    attempted: bool = False
    """A commit was sent, whether or not a response came."""

    def commit(self) -> Pushed:
        """Commit the missing content; the Hub refuses with 412 if the branch has moved since its head was read."""
        head, operations = self._missing(self.revision)
        if operations:
            self.attempted = True
            head = self.api.create_commit(
                self.repo_id, operations, commit_message=self._title(), revision=self.revision, parent_commit=head
            ).oid
        return self._pushed("" if self.revision == "main" else f"/tree/{self.revision}", self.revision, head)

    def pull_request(self) -> Pushed:
        """Open a pull request against main, unless main or an open one has the content."""
        head, operations = self._missing("main")
        if not operations:
            return self._pushed("", "main", head)
        for pull in self.api.get_repo_discussions(
            self.repo_id, discussion_type="pull_request", discussion_status="open"
        ):
            pull_head, missing = self._missing(f"refs/pr/{pull.num}", refuse_others=False)
            if not missing:
                return self._pushed(f"/discussions/{pull.num}", f"refs/pr/{pull.num}", pull_head)
        self.attempted = True
        info = self.api.create_commit(
            self.repo_id, operations, commit_message=self._title(), create_pr=True, parent_commit=head
        )
        return self._pushed(f"/discussions/{info.pr_num}", f"refs/pr/{info.pr_num}", info.oid)

    def _missing(
        self, revision: str, *, refuse_others: bool = True
    ) -> tuple[str, list[CommitOperationAdd | CommitOperationDelete]]:
        """Return the head of `revision` and the operations that bring it to the content of `files`.

        Raises:
            InputError: with `refuse_others`, no earlier push is there, but files that would load as a part of the
                model.
        """
        head = str(self.api.repo_info(self.repo_id, revision=revision).sha)
        tree = self.api.list_repo_tree(self.repo_id, recursive=True, revision=head)
        remote = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
        operations: list[CommitOperationAdd | CommitOperationDelete] = []
        for path, file in self.files.items():
            if path not in remote or not file.equals(remote[path]):
                # New for every attempt: an operation remembers what it saw on the Hub.
                operation = CommitOperationAdd(path, file.content)
                operation.upload_info.sha256 = bytes.fromhex(file.sha256)
                operations.append(operation)
        others = sorted(path for path in remote if path not in self.files)
        stale = [path for path in others if _loads_with_model(path)]
        if remote.keys() >= set(ALWAYS_PUSHED):
            # The repository holds an earlier push.
            of_earlier_run = [path for path in others if path in ("predictions.parquet", *plots.FILES)]
            results = [path for path in others if self._has_our_results(remote[path], head)]
            operations += map(CommitOperationDelete, [*stale, *of_earlier_run, *results])
        elif stale and refuse_others:
            raise InputError(
                f"{self.repo_id}: {stale[0]} of another model is there, and would load as a part of this one; delete "
                "it there, or push to another repository"
            )
        return head, operations

    def _has_our_results(self, file: RepoFile, revision: str) -> bool:
        """Return whether a file on the Hub holds evaluation results of an earlier push, and no others."""
        if not fnmatch.fnmatch(file.path, FILES) or file.path.count("/") != 1 or file.size > LARGEST_BYTES:
            return False
        with tempfile.TemporaryDirectory(prefix="hf_finetune_pull_") as folder:
            copy = self.api.hf_hub_download(self.repo_id, file.path, revision=revision, local_dir=folder)
            return is_ours(Path(copy).read_bytes())

    def _title(self) -> str:
        """Return a commit title with a hash of the content."""
        digest = hashlib.sha256("".join(file.sha256 for file in self.files.values()).encode()).hexdigest()
        return f"Run of hf_finetune ({digest[:12]})"

    def _pushed(self, page: str, revision: str, commit: str) -> Pushed:
        checksums = {path: file.sha256 for path, file in self.files.items()}
        url = f"{self.api.endpoint}/{self.repo_id}{page}"
        return Pushed(url, self.repo_id, revision, commit, self.attempted, checksums)


def _loads_with_model(path: str) -> bool:
    folder, _, name = path.rpartition("/")
    if folder:
        return folder.split("/")[0] in FOLDERS_OF_A_RUN
    return any(fnmatch.fnmatch(name, pattern) for pattern in LOADED_FROM_ROOT)


@contextmanager
def _without_upstream_warnings() -> Iterator[None]:
    """Silence huggingface_hub's warnings of its own HTTP client and of the parquet file that the user wants to send."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Use 'content=", DeprecationWarning)
        warnings.filterwarnings("ignore", "It seems that you are about to commit a data file", UserWarning)
        yield
