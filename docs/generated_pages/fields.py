"""Fields of the YAML files that users write, from the pydantic models that read them."""

from __future__ import annotations

import json
from typing import Any

from numpydoc.docscrape import ClassDoc
from pydantic import BaseModel

from bench.data.card import DatasetCard, FileCard, HubCard, PanelCard, SectionCard
from bench.encoders.declaration import EncoderDeclaration
from bench.execute.executors.profile import Profile
from bench.protocol.rules import Protocol, Scale
from bench.study.declaration import ExecutorHints, Study, StudyPart, StudyRow

FILES: dict[str, tuple[type[BaseModel], ...]] = {
    "protocol": (Protocol, Scale),
    "dataset-card": (DatasetCard, SectionCard, FileCard, PanelCard, HubCard),
    "study": (Study, StudyPart, StudyRow, ExecutorHints),
    "profile": (Profile,),
    "encoder": (EncoderDeclaration,),
}
"""Models of each kind of file, that of the whole file first."""


def meanings(model: type[BaseModel]) -> dict[str, str]:
    """Meaning of each field, from the section ``Attributes`` of the class's docstring."""
    said: dict[str, str] = {}
    for entry in ClassDoc(model, config={"show_class_members": False})["Attributes"]:
        for name in entry.name.split(","):
            said[name.strip()] = " ".join(entry.desc)
    return said


def pages() -> dict[str, str]:
    """Markdown by kind of file: a table of fields a model."""
    return {
        kind: "\n".join(_section(model, number) for number, model in enumerate(models))
        for kind, models in FILES.items()
    }


def schemas() -> dict[str, str]:
    """JSON schema by kind of file, for editors that check YAML while it is written."""
    return {
        kind: json.dumps(models[0].model_json_schema(), indent=2) + "\n"
        for kind, models in FILES.items()
    }


def _section(model: type[BaseModel], number: int) -> str:
    schema = model.model_json_schema()
    required = set(schema.get("required", ()))
    said = meanings(model)
    rows = []
    for name in model.model_fields:
        # A field is listed in the schema under the alias that files use.
        alias = name if name in schema["properties"] else _alias(model, name)
        stated = schema["properties"][alias]
        default = "required" if alias in required else f"`{json.dumps(stated.get('default'))}`"
        meaning = _markdown(said.get(name, ""))
        rows.append(f"| `{name}` | {_kind(stated)} | {default} | {meaning} |")
    summary = _markdown((model.__doc__ or "").strip().split("\n\n")[0])
    title = [] if number == 0 else [f"### {model.__name__}", "", summary, ""]
    head = ["| field | type | default | meaning |", "|---|---|---|---|"]
    return "\n".join([*title, *head, *rows, ""])


def _alias(model: type[BaseModel], name: str) -> str:
    alias = model.model_fields[name].validation_alias
    return str(getattr(alias, "choices", [alias])[0])


def _kind(stated: dict[str, Any]) -> str:
    """Type of a field in words."""
    if "$ref" in stated:
        return stated["$ref"].rpartition("/")[2]
    if "enum" in stated:
        return ", ".join(f"`{value}`" for value in stated["enum"])
    if "const" in stated:
        return f"`{stated['const']}`"
    if "anyOf" in stated:
        kinds = dict.fromkeys(_kind(choice) for choice in stated["anyOf"])
        return " or ".join(kind for kind in kinds if kind != "none")
    if stated.get("type") == "array":
        items = stated.get("prefixItems") or [stated.get("items", {})]
        return "list of " + ", ".join(dict.fromkeys(_kind(item) for item in items))
    if stated.get("type") == "object" and isinstance(stated.get("additionalProperties"), dict):
        return f"mapping of names to {_kind(stated['additionalProperties'])}"
    names = {"object": "mapping", "null": "none", "string": "text", "boolean": "true or false"}
    kind = str(stated.get("type", "any value"))
    return names.get(kind, kind)


def _markdown(text: str) -> str:
    """A docstring's reStructuredText as a cell of a Markdown table."""
    text = " ".join(text.split()).replace("``", "`").replace("|", "\\|")
    for role in (":func:", ":class:", ":data:", ":attr:", ":meth:"):
        text = text.replace(role, "")
    return text
