"""What the errors of the Hugging Face hub mean, in words for users."""

from __future__ import annotations

from bench.files import one_line

TOKEN = "HF_TOKEN"  # noqa: S105 - name of the variable, no secret
"""Environment variable of the access token."""

_TOKENS = "https://huggingface.co/settings/tokens"
_REFUSED = (401, 403)


def is_gated(error: Exception) -> bool:
    """Whether the hub refuses because access has not been granted."""
    from huggingface_hub.errors import GatedRepoError

    status = getattr(getattr(error, "response", None), "status_code", None)
    return isinstance(error, GatedRepoError) or status in _REFUSED


def hub_reason(error: Exception, page: str, revision: str) -> str:
    """Reason in one line why the hub did not answer, or what it refused.

    Parameters
    ----------
    error
        What huggingface_hub or its HTTP library raised.
    page
        Address of the repository.
    revision
        Branch, tag or commit that was asked for.
    """
    from huggingface_hub.errors import (
        EntryNotFoundError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if is_gated(error):
        return (
            f"access is asked for at {page}; then make a token at {_TOKENS} and set {TOKEN} to it"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{page} has no revision {revision}"
    if isinstance(error, RepositoryNotFoundError):
        return f"{page} does not exist, or {TOKEN} holds no valid token"
    if isinstance(error, EntryNotFoundError) and not isinstance(error, OSError):
        return f"a file is missing in {page}"
    said = one_line(error, 200)
    if isinstance(error, HfHubHTTPError):
        return said
    return f"{page} cannot be reached ({said})"
