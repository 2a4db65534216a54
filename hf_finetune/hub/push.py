"""From the folder of a run to a repository on the Hub: one commit, no secrets, pulled back and compared."""

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

from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    get_token,
    is_offline_mode,
    snapshot_download,
)
from huggingface_hub.errors import HFValidationError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from hf_finetune.errors import GateError, InputError
from hf_finetune.hub.contents import ALWAYS_PUSHED, Outgoing, collect
from hf_finetune.hub.retry import DEFAULT_PATIENCE, Patience, Persistence, first_line
from hf_finetune.utils import hashing

logger = logging.getLogger("hf_finetune.run")

# What a run puts into a repository besides its documents: there, a file of an earlier run would pass for one of this.
OWN_LAYOUT = (
    "adapter/*",
    "encoder/*",
    "head.safetensors",
    "model*.safetensors",
    "*.safetensors.index.json",
    "predictions.parquet",
)


@dataclass(frozen=True)
class Pushed:
    """What lies on the Hub now."""

    url: str
    """Page of the repository, its branch, or the pull request."""
    repo_id: str
    revision: str
    """Branch, or refs/pr/<n>."""
    commit: str
    created: bool
    """False: the same content was there already, and no commit was made."""
    files: dict[str, str]
    """SHA-256 by path in the repository."""


def push(
    run_dir: Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    include_predictions: bool = False,
    endpoint: str | None = None,
    check: Callable[[Path], None] | None = None,
    patience: Patience = DEFAULT_PATIENCE,
) -> Pushed:
    """Send a finished run to the Hub in exactly one commit, then pull it and compare every byte.

    model/ goes to the root of the repository, adapter/ into a folder of this name, beside them the card, result.json
    and recipe.json, with local paths reduced to names. Whatever fails on the way, a second commit with the same content
    is never made: before each attempt the head is read, and a commit names the head that it was made for. Pushing the
    same run again changes nothing.

    Args:
        run_dir: folder of the run.
        repo_id: `your-name/its-name`; created when it is not there.
        private: a new repository is private; an existing public one is refused.
        revision: branch, created when it is not there. None: main.
        create_pr: open a pull request instead of committing.
        include_predictions: send predictions.parquet, which quotes the user's labels.
        endpoint: another Hub than HF_ENDPOINT names.
        check: called with the folder of the pulled copy; raises when that is not the same model.
        patience: how long a failing Hub is waited for.

    Raises:
        InputError: an unfinished run, a file that must not be sent (pickle, code, checkpoint, log, a token in it), a
            bad repository name, no token, or no right to write.
        GateError: a parity check of the run failed, or the pulled copy differs.
        PushError: the Hub kept failing.
    """
    token = check_target(repo_id, revision, create_pr)
    files = collect(run_dir, repo_id, include_predictions=include_predictions, token=token)
    api = HfApi(endpoint=endpoint, token=token, library_name="hf_finetune")
    persist = Persistence(patience, repo_id, token)
    with _without_upstream_warnings():
        persist(lambda: _prepare_repository(api, repo_id, private, None if create_pr else revision))
        sender = _Sender(api, repo_id, revision or "main", files)
        pushed = persist(sender.pull_request if create_pr else sender.commit)
    logger.info("%s: %s", pushed.url, "pushed" if pushed.created else "the same content is already there")
    verify_pushed(pushed, endpoint=endpoint, check=check, patience=patience)
    return pushed


def verify_pushed(
    pushed: Pushed,
    *,
    endpoint: str | None = None,
    check: Callable[[Path], None] | None = None,
    patience: Patience = DEFAULT_PATIENCE,
) -> None:
    """Download the commit into a fresh folder, compare the SHA-256 of every file sent, then call `check` on it.

    Raises:
        GateError: a file is missing or differs; and whatever `check` raises.
        PushError: the Hub kept failing.
    """
    with tempfile.TemporaryDirectory(prefix="hf_finetune_pull_") as name:
        pulled = Path(name) / "pulled"
        token = get_token()
        Persistence(patience, pushed.repo_id, token or "")(
            lambda: snapshot_download(
                pushed.repo_id,
                revision=pushed.commit,
                local_dir=pulled,
                cache_dir=Path(name) / "cache",
                endpoint=endpoint,
                token=token,
            )
        )
        for path, sha256 in pushed.files.items():
            if not (pulled / path).is_file():
                raise GateError(f"{pushed.repo_id}: {path} was sent but is not in commit {pushed.commit}")
            if hashing.of_files(pulled / path) != sha256:
                raise GateError(f"{pushed.repo_id}: {path} of commit {pushed.commit} is not what was sent")
        if check is not None:
            check(pulled)


# Where it goes


def check_target(repo_id: str, revision: str | None, create_pr: bool) -> str:
    """Refuse what no push could do, without a word to the Hub.

    Returns:
        The user's token.

    Raises:
        InputError: a bad repository name, flags that exclude each other, the Hub switched off, or no token.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise InputError(f"{repo_id}: not a repository name: {first_line(error)}") from None
    if repo_id.count("/") != 1:
        raise InputError(f"{repo_id}: expected your-name/its-name")
    if create_pr and revision not in (None, "main"):
        raise InputError(
            f"--revision {revision}: a pull request is opened against main; leave --revision or --create-pr out"
        )
    if is_offline_mode():
        raise InputError("HF_HUB_OFFLINE is set: unset it to push")
    token = get_token()
    if token is None:
        raise InputError("no Hugging Face token: run `hf auth login`, or set HF_TOKEN")
    return token


def _prepare_repository(api: HfApi, repo_id: str, private: bool, revision: str | None) -> None:
    """Repository and branch are there afterwards; safe to be called again when an answer was lost."""
    if not api.repo_exists(repo_id):
        api.create_repo(repo_id, private=True if private else None, exist_ok=True)
    if private and not api.repo_info(repo_id).private:
        raise InputError(f"{repo_id}: exists and is public; make it private in its settings, or leave --private out")
    if revision is None or revision.startswith("refs/"):
        return
    if revision not in {branch.name for branch in api.list_repo_refs(repo_id).branches}:
        api.create_branch(repo_id, branch=revision, exist_ok=True)


@dataclass
class _Sender:
    """One run's way to one branch or pull request; its steps may be repeated."""

    api: HfApi
    repo_id: str
    revision: str
    files: dict[str, Outgoing]
    tried: bool = False
    """A commit was sent, whether or not an answer came."""

    def commit(self) -> Pushed:
        """Commit what the branch lacks on the head just read: if someone is faster, the Hub refuses with 412."""
        head, operations = _missing(self.api, self.repo_id, self.revision, self.files)
        if operations:
            self.tried = True
            head = self.api.create_commit(
                self.repo_id, operations, commit_message=self.title(), revision=self.revision, parent_commit=head
            ).oid
        return self.pushed("" if self.revision == "main" else f"/tree/{self.revision}", self.revision, head)

    def pull_request(self) -> Pushed:
        """Open a pull request against main, unless main or an open one has the content."""
        head, operations = _missing(self.api, self.repo_id, "main", self.files)
        if not operations:
            return self.pushed("", "main", head)
        for pull in self.api.get_repo_discussions(
            self.repo_id, discussion_type="pull_request", discussion_status="open"
        ):
            there, lacking = _missing(self.api, self.repo_id, f"refs/pr/{pull.num}", self.files)
            if not lacking:
                return self.pushed(f"/discussions/{pull.num}", f"refs/pr/{pull.num}", there)
        self.tried = True
        info = self.api.create_commit(
            self.repo_id, operations, commit_message=self.title(), create_pr=True, parent_commit=head
        )
        return self.pushed(f"/discussions/{info.pr_num}", f"refs/pr/{info.pr_num}", info.oid)

    def title(self) -> str:
        """Names the content, so that one can see in the history which run a commit holds."""
        digest = hashlib.sha256("".join(file.sha256 for file in self.files.values()).encode()).hexdigest()
        return f"Run of hf_finetune ({digest[:12]})"

    def pushed(self, page: str, revision: str, commit: str) -> Pushed:
        """What lies on the Hub now."""
        sums = {path: file.sha256 for path, file in self.files.items()}
        return Pushed(f"{self.api.endpoint}/{self.repo_id}{page}", self.repo_id, revision, commit, self.tried, sums)


def _missing(
    api: HfApi, repo_id: str, revision: str, files: dict[str, Outgoing]
) -> tuple[str, list[CommitOperationAdd | CommitOperationDelete]]:
    """The head of `revision`, and what has to happen to it; nothing when our content is there."""
    head = str(api.repo_info(repo_id, revision=revision).sha)
    tree = api.list_repo_tree(repo_id, recursive=True, revision=head)
    remote = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    operations: list[CommitOperationAdd | CommitOperationDelete] = []
    for path, file in files.items():
        if path not in remote or not file.is_at(remote[path]):
            # Made anew at every attempt: an operation remembers what it saw on the Hub.
            operation = CommitOperationAdd(path, file.content)
            operation.upload_info.sha256 = bytes.fromhex(file.sha256)
            operations.append(operation)
    if remote.keys() >= set(ALWAYS_PUSHED):
        # An earlier push: what it sent and this one does not would be loaded as part of this model.
        stale = [p for p in remote if p not in files and any(fnmatch.fnmatch(p, pattern) for pattern in OWN_LAYOUT)]
        operations += [CommitOperationDelete(path) for path in sorted(stale)]
    return head, operations


@contextmanager
def _without_upstream_warnings() -> Iterator[None]:
    """huggingface_hub warns of its own use of its HTTP client, and of the parquet file that the user asked to send."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Use 'content=", DeprecationWarning)
        warnings.filterwarnings("ignore", "It seems that you are about to commit a data file", UserWarning)
        yield
