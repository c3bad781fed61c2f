"""Turn errors of the Hub and of the network into messages with hints."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from moegrow.errors import MoegrowError, UsageError

TOKENS = "https://huggingface.co/settings/tokens"


@contextmanager
def quieted(*, quiet: bool) -> Iterator[None]:
    """Keep huggingface_hub from logging anything but errors, and with `quiet` from drawing bars.

    Its messages hold signed addresses. Its logger and bars are as before at the end.
    """
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    logger = logging.getLogger("huggingface_hub")
    level, hides_bars = logger.level, quiet and not are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    if hides_bars:
        disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if hides_bars:
            enable_progress_bars()


@contextmanager
def explained(
    name: str, revision: str | None, token: str | None, *, is_guess: bool = False
) -> Iterator[None]:
    """Turn what can go wrong between here and the Hub into messages with something to do.

    `is_guess` says that the name could as well have been meant for a folder on this machine.
    Of an error's own text nothing is shown: addresses in it may be signed.
    """
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.OfflineModeIsEnabled:
        raise MoegrowError(
            f"{name} is needed from the Hub, and HF_HUB_OFFLINE is set",
            "unset HF_HUB_OFFLINE",
        ) from None
    except errors.HfHubHTTPError as error:
        raise _refusal(error, name, revision, token, is_guess) from None
    except httpx2.TransportError as error:
        here = f", and there is no folder {name} here" if is_guess else ""
        raise MoegrowError(
            f"{endpoint()} cannot be reached ({type(error).__name__}){here}",
            "check the network and HF_ENDPOINT, or use what is in the cache: HF_HUB_OFFLINE=1",
        ) from None
    except (errors.LocalEntryNotFoundError, errors.FileMetadataError):
        raise MoegrowError(
            f"{name} could not be fetched from {endpoint()}", "run the command again; it goes on"
        ) from None
    except errors.HFValidationError:
        raise UsageError(f"{name} cannot be the name of a repository", "check its name") from None
    except (
        httpx2.HTTPError, KeyError, TypeError, AttributeError, ValueError, RecursionError,
    ) as error:  # fmt: skip
        raise MoegrowError(
            f"{endpoint()} does not answer like the Hub ({type(error).__name__})",
            "check HF_ENDPOINT" if "HF_ENDPOINT" in os.environ else "try again later",
        ) from None


def _refusal(
    error: Any, name: str, revision: str | None, token: str | None, is_guess: bool
) -> MoegrowError:
    """What an answer of the Hub means for a person."""
    from huggingface_hub import errors

    page, status = f"{endpoint()}/{name}", error.response.status_code
    sign_in = "hf auth login, or HF_TOKEN"
    if isinstance(error, errors.GatedRepoError):
        return MoegrowError(
            f"{name} is gated: its owners ask you to agree to their terms first",
            f"ask for access at {page}, then give a token of that account: {sign_in}"
            if token is None
            else f"ask for access at {page}; the token that was given does not have it",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return MoegrowError(
            f"{name} has no revision {revision}", f"see {page}/refs for branches and tags"
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return MoegrowError(f"{name} has lost a file that it lists", "make the plan again")
    if isinstance(error, errors.DisabledRepoError):
        return MoegrowError(f"{name} is disabled on the Hub")
    if isinstance(error, errors.RepositoryNotFoundError):
        if is_guess:
            return MoegrowError(
                f"{name} does not exist: it is neither a folder here nor a repository of the Hub"
                " that may be seen",
                f"for a folder check the path; for the Hub check the name at {page}"
                + ("" if token else f", and sign in if it is private: {sign_in}"),
            )
        return MoegrowError(
            f"{name} is not on the Hub, or is private"
            + (" and the token may not see it" if token else " and no token was given"),
            f"check the name at {page}"
            + ("; for a private repository use a token of its owners" if token else f"; {sign_in}"),
        )
    if status == 401:
        return MoegrowError("the Hub does not know the token", f"make one at {TOKENS}; {sign_in}")
    if status == 403:
        return MoegrowError(f"the token may not do this with {name}", f"see its rights at {TOKENS}")
    return MoegrowError(f"the Hub answers {status} for {name}", "try again later")


def endpoint() -> str:
    """The Hub that is asked, without credentials that may stand in its address."""
    from urllib.parse import urlsplit

    from huggingface_hub import constants

    parts = urlsplit(constants.ENDPOINT)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}"
