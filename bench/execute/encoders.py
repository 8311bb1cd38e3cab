"""Encoders of the methods of a request: checked and fetched before anything is fitted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.encoders.declaration import (
    PRETRAINED,
    EncoderDeclaration,
    declaration,
    declarations,
    has_own_settings,
)
from bench.encoders.weights import local_folder, not_here, stored_weights, weights_identity

_SHAPING = {"encoder", "encoder_args", "pooling", "input_size", "patch_size"}


def prepare_encoder(config: Mapping[str, Any], changes: Mapping[str, Any]) -> None:
    """Refuse an encoder that cannot work; fetch weights that anybody may fetch.

    Methods with an image encoder have the settings ``encoder`` and ``weights``, like those of this
    package.

    Parameters
    ----------
    config
        All settings of a method.
    changes
        Those that differ from the preset's.

    Raises
    ------
    BenchError
        No such encoder, arguments or image size that it does not take, or weights that are
        not on this machine and cannot be fetched.
    """
    name = config.get("encoder")
    if not isinstance(name, str) or "weights" not in config or config.get("features"):
        return
    if _SHAPING & set(changes):
        from bench.blocks.encoders import check_encoder

        patch = config.get("patch_size")
        edge = config.get("input_size") or (patch if isinstance(patch, int) else None)
        check_encoder(name, edge, config.get("encoder_args"), config.get("pooling"))
    if not _is_published(config) or local_folder(name) or stored_weights(name):
        return
    of = declaration(name)
    if of.gated or not of.repository or of.library == "remote":
        raise not_here(name, of)
    from bench.blocks.encoders import check_weights
    from bench.encoders.hub import get_weights

    get_weights(name, check_weights)


def encoder_identity(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a fit depends on in the encoder of its settings, beside the settings, for keys.

    The declaration of a named encoder, and the repository, revision and hash of published weights;
    not of those that torchvision fetches, whose file name holds their hash.

    Raises
    ------
    BenchError
        The weights are not on this machine.
    """
    facts: dict[str, Any] = {}
    name = config.get("encoder")
    if isinstance(name, str) and "weights" in config and has_own_settings(name):
        facts["declaration"] = declaration(name).blueprint
    if _is_published(config):
        facts["weights"] = weights_identity(str(name))
    return facts


def can_be_random(encoder: str) -> bool:
    """Whether an encoder can be built with random weights.

    Raises
    ------
    BenchError
        No such encoder.
    """
    return declaration(encoder).library not in {"conch", "remote"}


def encoder_rows() -> list[dict[str, str]]:
    """Named encoders, for lists: licence, gate, dimension and whether their weights are here."""
    return [_row(name, of) for name, of in declarations().items()]


def _row(name: str, of: EncoderDeclaration) -> dict[str, str]:
    return {
        "name": name,
        "features": str(of.dimension or ""),
        "patch": of.patch_size or "-",
        "here": "yes" if stored_weights(name) is not None else "-",
        "access": "gated" if of.gated else "open",
        "licence": of.licence,
        "summary": of.title,
        "page": of.page,
        "citation": of.citation,
    }


def _is_published(config: Mapping[str, Any]) -> bool:
    name = config.get("encoder")
    return (
        isinstance(name, str)
        and name != "densenet121"
        and config.get("weights") in PRETRAINED
        and not config.get("features")
    )
