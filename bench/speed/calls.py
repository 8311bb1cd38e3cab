"""What networks are called with during a prediction, to be called again with nothing around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class NetworkCalls:
    """The outermost calls of modules, in their order, with inputs that lie on the device."""

    def __init__(self) -> None:
        self._calls: list[tuple[nn.Module, tuple[Any, ...], dict[str, Any]]] = []
        self._inputs: dict[tuple[Any, ...], Tensor] = {}

    def __len__(self) -> int:
        return len(self._calls)

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Note the calls that are made meanwhile."""
        plain = nn.Module.__call__
        depth = 0

        def noted(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            nonlocal depth
            if depth == 0:
                positional = tuple(self._like(value) for value in args)
                named = {name: self._like(value) for name, value in kwargs.items()}
                self._calls.append((module, positional, named))
            depth += 1
            try:
                return plain(module, *args, **kwargs)
            finally:
                depth -= 1

        # Not a global forward hook of torch: those are not told of keyword arguments.
        nn.Module.__call__ = noted  # type: ignore[method-assign]
        try:
            yield
        finally:
            nn.Module.__call__ = plain  # type: ignore[method-assign]

    def replay(self) -> None:
        """Make the same calls, forward only, on random inputs of the same shapes and layout."""
        with torch.inference_mode():
            for module, args, kwargs in self._calls:
                module(*args, **kwargs)

    def _like(self, value: Any) -> Any:
        """Random values of the same shape; indices, masks and graphs are kept as they are."""
        dense = isinstance(value, Tensor) and value.layout == torch.strided
        if not (dense and value.is_floating_point()):
            return value
        key = (value.shape, value.stride(), value.dtype, value.device)
        if key not in self._inputs:  # one for all calls of a shape, so that memory stays bounded
            self._inputs[key] = torch.rand_like(value)
        return self._inputs[key]
