"""Upload a result to the Hub, after all checks that could refuse it."""

import hashlib
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from moegrow.checkpoint import hub
from moegrow.checkpoint.hub import token_of
from moegrow.checkpoint.hub_errors import TOKENS, endpoint, explained, quieted
from moegrow.checkpoint.locate import user_path
from moegrow.checkpoint.side_files import PLAN
from moegrow.checkpoint.store import Access
from moegrow.errors import MoegrowError, Parameter, UsageError
from moegrow.files.untrusted import is_plain_file, is_plain_folder, kind
from moegrow.planning.plan import Plan
from moegrow.planning.plan_file import read_plan
from moegrow.planning.plan_lines import to_lines

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# What a repository holds that nobody has put anything into.
_OF_THE_HUB = (".gitattributes",)


class Goal(NamedTuple):
    """A repository that a result may be uploaded to."""

    name: str
    token: str
    address: str


def push(
    folder: str | os.PathLike[str],
    name: str,
    *,
    private: bool = False,
    force: bool = False,
    token: str | None = None,
) -> str:
    """Upload the checkpoint that moegrow has written to `folder`; gives its address on the Hub.

    `name` is the repository, org/name, which is made where it is not there, with `private` as a
    private one; `force` replaces another result of moegrow in it. Raises MoegrowError where it
    may not be written, or the upload fails: then the same call goes on with it.
    """
    path = user_path(folder)
    if not (path / PLAN).is_file():
        raise MoegrowError(f"{path} holds no {PLAN}", "give a folder that moegrow has written")
    goal = prepare(read_plan(path / PLAN), name, private=private, force=force, token=token)
    upload(path, goal)
    return goal.address


def prepare(
    plan: Plan,
    name: str,
    *,
    private: bool = False,
    force: bool = False,
    token: str | None = None,
    is_trial: bool = False,
) -> Goal:
    """Make sure, before anything is grown, that the result of a plan can be uploaded.

    The repository is made where it is not there, because nothing else shows for certain that it
    may be; one that is there must be empty, or hold a part or all of the same result, or with
    `force` another result of moegrow. A trial makes none. Raises MoegrowError otherwise.
    """
    if not hub.is_name(name):
        raise UsageError(Parameter("name", name) + " is no name of a repository", "use org/name")
    found = token_of(Access(token))
    if found is None:
        raise MoegrowError(
            "to upload to the Hub takes a token, and none was given",
            f"hf auth login, or HF_TOKEN; a token with the right to write is made at {TOKENS}",
        )
    from huggingface_hub import HfApi, is_offline_mode

    from moegrow.checkpoint.time_limits import PROGRAM, watch

    watch()
    if is_offline_mode():
        raise MoegrowError(f"{name} cannot be written: HF_HUB_OFFLINE is set", "unset it")
    api = HfApi(token=found, library_name=PROGRAM)
    with _explained(name, found):
        _check_rights(api, name)
        if api.repo_exists(name):
            _check_place(api, plan, name, private=private, force=force)
        elif not is_trial:
            api.create_repo(name, private=private or None, exist_ok=True)
        if not is_trial or api.repo_exists(name):
            api.auth_check(name, write=True)
    return Goal(name, found, f"{endpoint()}/{name}")


def upload(folder: Path, goal: Goal, *, quiet: bool = True) -> None:
    """Upload the checkpoint in a folder; what is there already is not sent again.

    The plan goes first: by it a run that goes on where this one ended knows the repository.
    Raises MoegrowError where it fails.
    """
    from huggingface_hub import HfApi

    from moegrow.checkpoint.time_limits import PROGRAM

    _check_plain(folder)
    api = HfApi(token=goal.token, library_name=PROGRAM)
    message = f"Grown with moegrow: {folder.name}"
    hint = f"the result is whole in {folder}; run the same command again, and the upload goes on"
    with quieted(quiet=quiet), _explained(goal.name, goal.token, hint=hint):
        files = _remote_files(api, goal.name)
        if _digests((folder / PLAN).read_bytes()).isdisjoint({files.get(PLAN)}):
            api.upload_file(
                path_or_fileobj=folder / PLAN, path_in_repo=PLAN, repo_id=goal.name,
                commit_message=f"{message}: the plan",
            )  # fmt: skip
        # What an older result has left there, and this one does not have, goes.
        api.upload_folder(
            repo_id=goal.name, folder_path=folder, commit_message=message, delete_patterns="*"
        )


def _check_plain(folder: Path) -> None:
    """Raise MoegrowError where a result holds a link, whose target would be uploaded."""
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            if not is_plain_file(path) and not is_plain_folder(path):
                raise MoegrowError(
                    f"{path} is {kind(path)}, which moegrow writes into no result",
                    f"nothing was uploaded; look at it and remove it: rm {shlex.quote(str(path))}",
                )


def _check_rights(api: "HfApi", name: str) -> None:
    """Raise MoegrowError where the token cannot write to the name's owner."""
    who = api.whoami()
    owner = name.partition("/")[0]
    role = who.get("auth", {}).get("accessToken", {}).get("role", "")
    if role == "read":
        raise MoegrowError(
            "the token may read, and to upload takes one that may write", f"make one at {TOKENS}"
        )
    roles = {org["name"]: org.get("roleInOrg", "") for org in who.get("orgs", [])}
    if owner != who["name"] and owner not in roles:
        known = ", ".join([who["name"], *sorted(roles)])
        raise MoegrowError(
            f"the token is of {who['name']}, who may not write to {owner}",
            f"give a name of yours: {known}; or use another token",
        )
    if owner != who["name"] and roles[owner] == "read":
        raise MoegrowError(
            f"{who['name']} may read what is of {owner}, and not write it",
            f"ask an administrator of {owner} for the right to write",
        )


def _check_place(api: "HfApi", plan: Plan, name: str, *, private: bool, force: bool) -> None:
    """Raise MoegrowError where a repository holds what must not be replaced."""
    info = api.model_info(name)
    if private and not info.private:
        raise MoegrowError(
            f"{name} is there already, and is public",
            "make it private in its settings first, or give another name",
        )
    files = _remote_files(api, name)
    if not files.keys() - set(_OF_THE_HUB):
        return
    if PLAN not in files:
        raise MoegrowError(
            f"{name} is there already with {len(files)} files, and not by moegrow",
            "give another name: " + Parameter("name", "org/name"),
        )
    lines = "".join(f"{line}\n" for line in to_lines(plan)).encode()
    if not force and files[PLAN] not in _digests(lines):
        raise MoegrowError(
            f"{name} is there already, with another result of moegrow",
            "use " + Parameter("force", True) + " to replace it, or give another name",
        )


def _remote_files(api: "HfApi", name: str) -> Mapping[str, str]:
    """The files of a repository, each with the digest that the Hub knows it by."""
    info = api.model_info(name, files_metadata=True)
    return {
        file.rfilename: file.lfs.sha256 if file.lfs else str(file.blob_id)
        for file in info.siblings or []
    }


def _digests(data: bytes) -> set[str]:
    """By what the Hub may know some bytes: the SHA-256 of a large file, the blob of a small one."""
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False)
    return {hashlib.sha256(data).hexdigest(), blob.hexdigest()}


@contextmanager
def _explained(name: str, token: str, hint: str = "") -> Iterator[None]:
    """Errors of the Hub as messages, with a hint of what to do about the upload."""
    try:
        with explained(name, None, token):
            yield
    except MoegrowError as error:
        raise MoegrowError(error.said, hint or error.advice) from None
    except (RuntimeError, OSError) as error:
        # What the library's own transport raises, whose texts can hold signed addresses.
        raise MoegrowError(f"the upload to {name} failed ({type(error).__name__})", hint) from None
