"""Pages from the templates of this room, each one file that asks for nothing outside of it."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jinja2


def rendered(template: str, /, **values: Any) -> str:
    """Text of a page.

    Parameters
    ----------
    template
        Name of a template.
    values
        What it shows. Texts are escaped; ``tojson`` refuses NaN, which a browser cannot read.
    """
    return _environment().get_template(template).render(viridis=_viridis(), **values)


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        loader=jinja2.FunctionLoader(
            lambda name: files("bench.report").joinpath(name).read_text(encoding="utf-8")
        ),
    )
    # Values that a browser's JSON.parse refuses must not be written.
    environment.policies["json.dumps_kwargs"] = {
        "sort_keys": True,
        "allow_nan": False,
        "separators": (",", ":"),
    }
    return environment


@lru_cache(maxsize=1)
def _viridis() -> str:
    """The 256 colours of viridis, six hexadecimal digits each."""
    from matplotlib import colormaps

    colours = [colormaps["viridis"](step, bytes=True)[:3] for step in range(256)]
    return "".join(f"{value:02x}" for colour in colours for value in colour)
