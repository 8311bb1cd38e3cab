"""Model card of a bundle for Hugging Face, made from the scores of its run."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.encoders.declaration import PRETRAINED
from bench.evaluate.scores import SCORES
from bench.files import one_line
from bench.prediction import MIN_PCC
from bench.prediction.bundle import BundledImages
from bench.prediction.gene_reliability import gene_reliability
from bench.prediction.stored_models import FINAL, StoredModel
from bench.report.presets import shown_preset
from bench.report.tables import score_table
from bench.version import __version__

if TYPE_CHECKING:
    import pandas as pd

CARD_FILE = "README.md"
LISTED_GENES = 20
"""Genes of the table of a card, those with the highest PCC."""

_TAGS = ("spatial-transcriptomics", "histology", "gene-expression", "spotbench")
_LICENCES = {
    *("mit", "apache-2.0", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0"),
    *("cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "cc-by-nd-4.0", "cc-by-3.0", "bsd-3-clause"),
}
"""Licences that the hub knows by these names."""

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+!|~$-])")


def model_card(model: StoredModel, images: BundledImages, repository: str) -> str:
    """The text of the card, with the header in YAML.

    Every name of the bundle is escaped: a bundle may be made by anybody.

    Parameters
    ----------
    model, images
        Model of a bundle, and what the bundle knows of the training images.
    repository
        ``OWNER/REPO``, for the commands of the card.
    """
    from huggingface_hub import ModelCard

    reliability = gene_reliability(model.run, model.genes)
    parts = [
        _title(model, images),
        _scores(model, reliability),
        _genes(reliability),
        _protocol(model),
        _data(model, images),
        _use(model, images, repository),
        _LIMITS,
    ]
    body = "\n\n".join(parts)
    return str(ModelCard(f"---\n{_header(model, images)}\n---\n\n{body}\n"))


def _header(model: StoredModel, images: BundledImages) -> str:
    from huggingface_hub import ModelCardData

    content, hub = images.content, images.card.hub
    licence = one_line(content.licence, 100)
    known = re.sub(r"\s+", "-", licence.lower())
    named: dict[str, Any] = {"license": known} if known in _LICENCES else {"license": "other"}
    if named["license"] == "other":
        named["license_name"] = re.sub(r"[^\w.-]+", "-", licence.lower()).strip("-") or "unknown"
    name = hub.repository if hub is not None else one_line(content.dataset, 96)
    datasets = [name] if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name, re.ASCII) else None
    method = re.sub(r"[^\w.-]+", "-", one_line(content.method, 60))
    data = ModelCardData(
        library_name="spotbench", tags=[*_TAGS, method], datasets=datasets, **named
    )
    return str(data.to_yaml()).strip()


def _title(model: StoredModel, images: BundledImages) -> str:
    card, facts = images.card, model.run.facts
    return (
        f"# {escaped(model.label)} on {escaped(card.title)}\n\n"
        f"Predicts the expression of {len(model.genes):,} genes at spots of H&E images"
        f" ({escaped(card.tissue)}, {escaped(card.platform)}), with {_fits(model)} of the method"
        f" {escaped(facts['method'])} that SpotBench"
        f" {escaped(images.content.spotbench)} has fitted. Values are on the target scale of the"
        f" protocol {escaped(facts['protocol'])}."
    )


def _fits(model: StoredModel) -> str:
    if len(model.fits) == 1:
        return f"one fit ({escaped(model.fits[0].name)})"
    return f"the mean of {len(model.fits)} fits"


def _scores(model: StoredModel, reliability: pd.DataFrame) -> str:
    row = score_table([model.run]).iloc[0]
    rows = []
    for score in SCORES:
        name = score.shown_as
        if not (score.is_in("machine") and score.spread) or not np.isfinite(row[name]):
            continue
        share = row[f"{name}_share"] if score.ceiling else np.nan
        interval = _interval(row[f"{name}_low"], row[f"{name}_high"])
        of_ceiling = f"{share:.0%}" if np.isfinite(share) else "-"
        rows.append([score.heading, f"{row[name]:.3f}", interval, of_ceiling])
    head = ["score", "mean over test sections", "95 % interval over patients", "of noise ceiling"]
    ceiling = reliability["ceiling"].mean()
    told = (
        f" The mean noise ceiling of the genes, the maximum PCC attainable given counting noise,"
        f" is {ceiling:.3f}."
        if np.isfinite(ceiling)
        else ""
    )
    return (
        "## Scores\n\n"
        f"On {int(row['sections'])} test sections of {len(model.run.done)} of"
        f" {int(model.run.facts['n_folds'])} folds, none of which the fit of its fold has"
        f" seen.{told}{_of_model(model)}\n\n{_table(head, rows)}"
    )


def _of_model(model: StoredModel) -> str:
    """What the scores say of a model that is no mean of folds."""
    if [fit.name for fit in model.fits] != [FINAL]:
        return ""
    return " The model itself was fitted on all sections and has no scores of its own."


def _genes(reliability: pd.DataFrame) -> str:
    best = reliability.sort_values("pcc", ascending=False, na_position="last", kind="stable")
    columns = ["pcc", "pcc_low", "pcc_high", "ceiling", "sections"]
    values = best[columns].to_numpy(dtype=np.float64)[:LISTED_GENES]
    rows = [
        [escaped(gene), _number(pcc), _interval(low, high), _number(top), f"{sections:.0f}"]
        for gene, (pcc, low, high, top, sections) in zip(best.index, values, strict=False)
    ]
    head = ["gene", "PCC", "95 % interval", "noise ceiling", "sections"]
    defined = reliability["pcc"].dropna()
    quartiles = (
        ", ".join(f"{value:.3f}" for value in defined.quantile([0.25, 0.5, 0.75]))
        if len(defined)
        else "undefined"
    )
    return (
        "## Genes\n\n"
        f"{int(reliability['predictable'].sum())} of {len(reliability)} genes have a PCC of"
        f" {MIN_PCC:g} or more on unseen sections; quartiles of the PCC: {quartiles}. The"
        f" {len(rows)} genes with the highest:\n\n{_table(head, rows)}"
    )


def _protocol(model: StoredModel) -> str:
    facts = model.run.facts
    rules = facts["rules"]
    told = [
        f"* protocol {escaped(facts['protocol'])}: {escaped(rules.get('title', ''))}",
        f"* division: by {escaped(rules.get('split', '-'))}, {int(facts['n_folds'])} folds",
        f"* preset {escaped(shown_preset(facts))}, seed {int(facts['seed'])}, run"
        f" {escaped(facts['key'][:12])}",
    ]
    return "## Protocol\n\n" + "\n".join(told)


def _data(model: StoredModel, images: BundledImages) -> str:
    card, content = images.card, images.content
    sections = len(model.sections)
    lines = [
        f"* dataset: {escaped(card.title)} ({escaped(card.name)}), {sections} training sections",
        f"* licence: {escaped(content.licence)}",
        f"* citation: {escaped(content.citation)}",
        f"* source: {escaped(card.source)}",
        *(f"* caution: {escaped(text)}" for text in card.cautions),
    ]
    if content.encoder:
        of = {name: escaped(value) for name, value in content.encoder.items()}
        lines.append(
            f"* image encoder: {of.get('name', '-')}, licence {of.get('licence', '-')}; its frozen"
            f" weights are not in the file. {of.get('citation', '')}".rstrip()
        )
    return "## Data\n\n" + "\n".join(lines)


def _use(model: StoredModel, images: BundledImages, repository: str) -> str:
    encoder = images.content.encoder.get("name", "")
    first = "pip install spotbench\n"
    fetched = model.fits[0].config.get("weights") in PRETRAINED
    if encoder and fetched and re.fullmatch(r"[\w.:/-]+", encoder, re.ASCII):
        first += f"bench encoders get {encoder}  # frozen weights, where they are not here\n"
    return (
        "## Use\n\n```\n"
        f"{first}"
        f"bench predict hf://{repository} slide.jpg --spots spots.csv --um-per-px 0.5"
        " --out slide.h5ad\n```\n\n"
        f"`bench pull {repository} --out model.spotbench` keeps the file. It was written by"
        f" SpotBench {escaped(images.content.spotbench)}; this card by {__version__}. The file"
        " holds no code, no image and no expression."
    )


_LIMITS = """## Limits

* The scores hold for the sections of this dataset. They do not promise the same for another
  scanner, stain, organ or disease: `bench predict` compares new patches with those of the training
  and says where they differ.
* Read the PCC of a gene before its map. Genes below a PCC of 0.1 are marked as not predictable.
* Research use. The model is no medical device."""


def escaped(value: Any) -> str:
    """A name or text of a file as plain Markdown: one line, no markup, no HTML."""
    text = one_line(value, 1000).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\1", text)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "-"


def _interval(low: float, high: float) -> str:
    return f"{low:.3f} to {high:.3f}" if np.isfinite(low) else "-"
