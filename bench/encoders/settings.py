"""Settings of methods that have an image encoder, completed from the encoder's declaration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import model_validator

from bench.encoders.declaration import PREFIXES, declarations, has_own_settings, is_named
from bench.method import MethodConfig

_BOUND = ("weights", "patch_size", "input_size", "pixels", "encoder_args", "pooling", "features")
"""Settings whose values belong to one encoder."""


class EncoderConfig(MethodConfig):
    """Base of the settings of methods with an image encoder.

    Where the setting ``encoder`` is a named encoder, settings that are not given follow its
    declaration: its own weights and pixel statistics, its input size, and patches at the scale it
    was trained on.
    """

    @classmethod
    def combine(
        cls, presets: Mapping[str, Any], changes: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """Values of presets and of the user, without what belongs to a preset's encoder.

        Parameters
        ----------
        presets
            Values of dataset and preset.
        changes
            Values of the user.
        """
        chosen = dict(changes or {})
        kept = dict(presets)
        encoder = chosen.get("encoder", kept.get("encoder"))
        if encoder != kept.get("encoder") and has_own_settings(str(encoder)):
            kept = {name: value for name, value in kept.items() if name not in _BOUND}
        return {**kept, **chosen}

    @model_validator(mode="before")
    @classmethod
    def _follow_declaration(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("encoder"), str):
            return values
        encoder = values["encoder"]
        if encoder.startswith(PREFIXES):
            own: dict[str, Any] = {"weights": "pretrained", "pixels": "encoder"}
        elif is_named(encoder):
            of = declarations()[encoder]
            own = {"weights": "pretrained", "pixels": "encoder", "input_size": of.input_size}
            if of.patch_size is not None:
                own["patch_size"] = of.patch_size
        else:
            return values
        fields = cls.model_fields
        return {**{k: v for k, v in own.items() if k in fields}, **values}
