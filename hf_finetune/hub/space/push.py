"""A Space beside a pushed model: a page on the Hub that runs the classifier, by Gradio."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from huggingface_hub import CommitOperationAdd, HfApi, RepoCard, SpaceCardData
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.sha import git_hash
from jinja2 import Template

from hf_finetune.config.recipe import Hub
from hf_finetune.errors import GateError, InputError
from hf_finetune.hub.push import check_target
from hf_finetune.hub.retry import Retries
from hf_finetune.utils.environment import requirement

SDK_VERSION = "6.31.0"
"""Of Gradio: the one that app.py was run with."""
TAG = "hf_finetune"
FILES = ("README.md", "app.py", "requirements.txt")


@dataclass(frozen=True)
class SpaceOptions:
    """What the page shows."""

    inputs: Literal["text", "pair", "image"]
    has_scores: bool
    """Whether each class or tag has a score for a whole row: not of numbers, and not of words."""
    extras: tuple[str, ...] = ()
    """Of the package, which read the inputs and compute the model."""
    license: str | None = None


def push_space(target: Hub, options: SpaceOptions, *, endpoint: str | None = None) -> str:
    """Publish a Space with the name of a model, that loads it from the main branch; return its page.

    It is one commit, and none if the Space has these files already. The commit is pulled and compared.

    Args:
        target: of the model, which was pushed before.
        endpoint: URL of another Hub than that of HF_ENDPOINT.

    Raises:
        InputError: see `check_target`; the model is on another branch; or the Space holds another app.
        PushError: the Hub kept failing.
        GateError: the pulled copy differs.
    """
    repo_id, token = check_target(target)
    check_branch(target)
    api = HfApi(endpoint=endpoint, token=token, library_name="hf_finetune")
    retries, files = Retries(repo_id, token), space_files(repo_id, options)
    retries(lambda: _prepare(api, repo_id, target))
    commit = retries(lambda: _commit(api, repo_id, files))
    with tempfile.TemporaryDirectory(prefix="hf_finetune_pull_") as name:
        pulled = Path(name) / "pulled"
        retries(
            lambda: api.snapshot_download(
                repo_id, repo_type="space", revision=commit, local_dir=pulled, cache_dir=Path(name) / "cache"
            )
        )
        for path, content in files.items():
            if not (pulled / path).is_file() or (pulled / path).read_bytes() != content:
                raise GateError(f"{repo_id}: {path} of the Space is not what was sent")
    return f"{api.endpoint}/spaces/{repo_id}"


def check_branch(target: Hub) -> None:
    """Refuse a model that the Space would not load.

    Raises:
        InputError: it goes to another branch, or to a pull request.
    """
    if target.create_pr or target.revision not in (None, "main"):
        flag = "--create-pr" if target.create_pr else f"--revision {target.revision}"
        raise InputError(f"--space: the Space loads the model of the main branch; push without {flag}")


def space_files(repo_id: str, options: SpaceOptions) -> dict[str, bytes]:
    """Return the files of a Space, by path."""
    template = Path(__file__).with_name("app.py.jinja").read_text(encoding="utf-8")
    constants = f"{repo_id!r}, {options.inputs!r}, {options.has_scores!r}"
    app = Template(template, keep_trailing_newline=True).render(constants=constants)
    name = repo_id.split("/")[1]
    card = SpaceCardData(
        title=name,
        sdk="gradio",
        sdk_version=SDK_VERSION,
        python_version="3.11",
        app_file="app.py",
        license=options.license,
        models=[repo_id],
        tags=[TAG],
    )
    text = (
        f"---\n{card.to_yaml()}\n---\n\n# {name}\n\n[{repo_id}](https://huggingface.co/{repo_id}) in a browser. "
        "A private model needs the secret `HF_TOKEN`, with a token that may read it.\n"
    )
    contents = dict(zip(FILES, (text, app, requirement(*options.extras) + "\n"), strict=True))
    return {path: content.encode() for path, content in contents.items()}


def _prepare(api: HfApi, repo_id: str, target: Hub) -> None:
    """Create the Space if it does not exist; may be repeated.

    Raises:
        InputError: it holds another app.
    """
    if not api.repo_exists(repo_id, repo_type="space"):
        private = True if target.private else None
        api.create_repo(repo_id, repo_type="space", space_sdk="gradio", private=private, exist_ok=True)
        return
    info = api.repo_info(repo_id, repo_type="space")
    if target.private and not info.private:
        raise InputError(f"{repo_id}: the Space exists and is public; make it private in its settings")
    if not api.file_exists(repo_id, "app.py", repo_type="space"):
        return
    with tempfile.TemporaryDirectory(prefix="hf_finetune_pull_") as folder:
        card = Path(api.hf_hub_download(repo_id, "README.md", repo_type="space", local_dir=folder))
        front = RepoCard(card.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.to_dict()
    if TAG not in front.get("tags", []):
        raise InputError(f"{repo_id}: the Space of this name holds another app; delete it, or push by another name")


def _commit(api: HfApi, repo_id: str, files: dict[str, bytes]) -> str:
    """Send the files that differ in one commit on the head of the branch; return the head."""
    head = str(api.repo_info(repo_id, repo_type="space").sha)
    tree = api.get_paths_info(repo_id, [*files], repo_type="space", revision=head)
    remote = {entry.path: entry.blob_id for entry in tree if isinstance(entry, RepoFile)}
    changed = [path for path, content in files.items() if remote.get(path) != git_hash(content)]
    if not changed:
        return head
    operations = [CommitOperationAdd(path, files[path]) for path in changed]
    title = f"Space of {repo_id} by hf_finetune"
    return api.create_commit(repo_id, operations, commit_message=title, repo_type="space", parent_commit=head).oid
