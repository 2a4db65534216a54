"""`hf-finetune verify`: compare the files of a run with the hashes that it wrote when it finished."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from hf_finetune.cli.parsing import parse


@dataclass(frozen=True)
class VerifyJob:
    """Compare the files of a finished run with the SHA-256 of each in its result.json. Nothing is loaded."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|REPO")]
    """Folder of a run, or the Hub id of its repository."""
    revision: str | None = None
    """Branch, tag or commit on the Hub."""
    json: bool = False
    """Print only the result, as JSON."""


def verify(arguments: Sequence[str]) -> None:
    job = parse(VerifyJob, arguments, "hf-finetune verify")
    from hf_finetune.errors import GateError
    from hf_finetune.models.checkpoint import REMEDY_ON_HUB, fetch_run
    from hf_finetune.utils.manifest import FROM_BEFORE, Manifest, read_result
    from hf_finetune.utils.messages import printable

    folder, commit = fetch_run(job.model, revision=job.revision)
    manifest = Manifest.find(folder)
    if manifest is None:
        read_result(folder)
        raise GateError(f"{job.model}: {FROM_BEFORE}: nothing can be verified; train again for a verified run")
    states = manifest.states()
    if job.json:
        ok = set(states.values()) <= {"ok"}
        print(json.dumps({"model": job.model, "commit": commit, "ok": ok, "artifacts": states}, indent=2))
    else:
        for file, state in states.items():
            print(f"{state:<7}  {printable(file)}")
    if commit is None:
        manifest.refuse(states)
    else:
        manifest.refuse(states, name=job.model, remedy=REMEDY_ON_HUB.format(folder))
