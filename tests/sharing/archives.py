"""Results archives for tests: made, taken apart, changed and put together again."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.files import canonical_hash
from bench.sharing.archive import INDEX

Members = dict[str, bytes]


def members(path: Path) -> Members:
    """Content of every member."""
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def written(path: Path, content: Members) -> Path:
    """A zip file of just these members."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in content.items():
            archive.writestr(name, text)
    return path


def sealed(path: Path, content: Members) -> Path:
    """An archive whose manifests and index fit its members, whatever those are."""
    files = {name: text for name, text in content.items() if name != INDEX}
    for name in [name for name in files if name.endswith("manifest.json")]:
        folder = name.rpartition("/")[0]
        inside = {n.rpartition("/")[2]: n for n in files if n.startswith(f"{folder}/")}
        listed = {short: _described(files[n]) for short, n in inside.items() if n != name}
        files[name] = record({**json.loads(files[name]), "files": listed})
    runs = sorted({"/".join(name.split("/")[:4]) for name in files if name.startswith("runs/")})
    index = {**json.loads(content[INDEX]), "runs": runs}
    index["files"] = {name: _described(text) for name, text in files.items()}
    return written(path, {INDEX: json.dumps(index).encode(), **files})


def record(content: dict[str, Any]) -> bytes:
    """A record with the hash of its content."""
    plain = {name: value for name, value in content.items() if name != "sha256"}
    return json.dumps({**plain, "sha256": canonical_hash(plain)}).encode()


def edited(path: Path, out: Path, ending: str, change: Callable[[dict[str, Any]], Any]) -> Path:
    """An archive in which the first record with an ending is changed, and everything else fits."""
    content = members(path)
    name = next(name for name in content if name.endswith(ending))
    value = json.loads(content[name])
    changed = change(value)
    value = value if changed is None else changed
    content[name] = record(value) if "sha256" in value else json.dumps(value).encode()
    return sealed(out, content)


def rekeyed(content: Members, labels: set[str] | None = None) -> Members:
    """The same runs under other keys, as of a laboratory with other versions of packages."""
    runs = {name: json.loads(text) for name, text in content.items() if name.endswith("run.json")}
    new = {
        name.removesuffix("run.json"): (facts["key"], hashlib.sha256(facts["key"].encode()))
        for name, facts in runs.items()
        if labels is None or facts["label"] in labels
    }
    changed = {}
    for name, text in content.items():
        folder = next((folder for folder in new if name.startswith(folder)), None)
        if folder is not None:
            old, digest = new[folder]
            key = digest.hexdigest()
            if name.endswith(("run.json", "manifest.json")):
                text = record(json.loads(text.replace(old.encode(), key.encode())))
            name = name.replace(old[:12], key[:12], 1)
        changed[name] = text
    return changed


def _described(text: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(text).hexdigest(), "size": len(text)}
