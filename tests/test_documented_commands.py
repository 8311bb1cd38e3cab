"""Every command and block of README and docs works as printed.

The id of a test says how far it goes. ``ran``: the command itself, in a folder that holds what the
page assumes. ``planned``: the command is parsed and every name and value in it looked up, where it
needs data, weights or a cluster that are not here; the table gives the reason.
"""

from __future__ import annotations

import re
import shlex
import shutil
import types
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
import yaml

from bench.cli import program as parser_of_bench
from bench.cli.config_file import read_config
from bench.cli.options import names, settings_of
from bench.data.card import DatasetCard
from bench.execute.executors.options import LOCAL, RAY, SLURM
from bench.execute.executors.profile import read_profile
from bench.fetch.patients import read_patients
from bench.protocol.rules import find_protocol
from bench.registry import collection, dataset_card, find_methods, load_method, method_class
from bench.study.declaration import read_study
from benchmarks.speed import parser as speed_parser
from tests.cli.tiny_dataset import (
    PLUGIN,
    call,
    write_tiny_dataset,
)
from tests.conftest import REPOSITORY
from tests.documented import write_shown
from tests.documented_commands import block, blocks, commands, spans, words

DATA = "needs the dataset's images or counts, which are downloads"
WEIGHTS = "the authors' preset needs ImageNet weights, and a GPU to end soon"
GPU = "clusters.md: yaml: partition: gpu time: '1-00:00:00' cpus: 8 gpus: gp"
PATIENTS = "your-own-data.md: csv: section,patient V10A-123_A1,P1 V10A-123_B1,P1 V10A"
SPOT_COLUMNS = ("image", "x", "y", "array_col", "array_row")
NETWORK = ("--preset", "quick", "--set", "epochs=1", "--set", "input_size=32")
BUNDLE = "needs a bundle and Hugging Face; tests/prediction has a faked hub"
RUNS = "needs the runs of the lines above it"
TOOL = "another program's command; what it is given is checked"


@dataclass(frozen=True)
class Treatment:
    """How a command is tested: truly, where `planned` is empty, or for that reason planned."""

    planned: str = ""
    slow: bool = False
    prints: str = ""


def ran(prints: str = "", slow: bool = False) -> Treatment:
    return Treatment(prints=prints, slow=slow)


COMMANDS = {
    "make demo": Treatment("installs into a new environment; the target and its command are read"),
    "make test": Treatment("is what runs this test; the target is read"),
    "make test-slow": Treatment("is what runs slow tests; the target is read"),
    "make docs": Treatment("builds the site, which CI does; the target is read"),
    'make speed ARGS="--method mclstexp,stnet --output speed.json"': Treatment(
        "minutes long; its options are parsed, and tests/benchmarks runs it"
    ),
    "bench list": ran("mclstexp"),
    "bench run --method mclstexp,mean --dataset demo --preset quick": ran("mclstexp", slow=True),
    "bench run --method ridge,shuffled --dataset demo --preset quick": ran(
        "shuffled:ridge", slow=True
    ),
    "bench tables --dataset demo --columns all": Treatment(f"{RUNS}, and tests/report has it"),
    "bench tables --dataset demo --pairs": Treatment(f"{RUNS}; it is run on her2st below"),
    "bench run --method mclstexp --dataset stnet": Treatment(DATA),
    "bench run --method ridge --dataset her2st --encoder uni,resnet50-layer3": Treatment(DATA),
    "bench tables --dataset her2st --pairs --against 'ridge[uni]'": Treatment(
        "needs runs with an encoder that is gated; tests/report compares with a row"
    ),
    "bench data get her2st": Treatment("a download; tests/fetch runs it on a local server"),
    "bench study run mclstexp-2024 --only main,her2st": Treatment(DATA),
    "bench run --config best.yaml": Treatment("needs a study's best.yaml; tests/tune runs one"),
    "bench run --method ./my_method.py --dataset demo": ran("my_method", slow=True),
    "bench tables --dataset her2st --format markdown": ran("mclstexp"),
    "bench tables --dataset her2st --pairs": ran("mclstexp"),
    "bench tables --dataset her2st --protocol published --with-published": ran("mclstexp"),
    "bench figures --dataset her2st": ran("scores.png", slow=True),
    "bench report": ran("report", slow=True),
    "bench genes --dataset her2st --method mclstexp": ran("GENE"),
    "bench predict slide.jpg --dataset her2st --method mclstexp --spots spots.csv"
    " --out slide.h5ad": ran("slide.h5ad"),
    "bench study list": ran("mclstexp-2024"),
    "bench study run demo": Treatment("takes minutes; tests/study/test_demo.py runs it"),
    "bench study run mclstexp-2024 --plan": ran("main", slow=True),
    "bench study status mclstexp-2024": ran("missing", slow=True),
    "bench study report mclstexp-2024": Treatment(
        "needs runs of the study; tests/study writes one"
    ),
    "bench cite --method mclstexp --out references.bib": ran("references.bib"),
    "bench ceiling --dataset her2st": Treatment(DATA),
    "bench audit --dataset her2st": Treatment(DATA),
    "bench tune --method mclstexp --dataset her2st": Treatment(DATA),
    "bench import-weights --method mclstexp --dataset her2st --protocol published --folds 5"
    " --checkpoint best_5.pt": Treatment(f"{DATA}, and a checkpoint of the authors"),
    "bench check ./my_method.py": ran(" 0 failed", slow=True),
    "bench ui": Treatment("serves pages until it is ended; tests/test_ui_in_browser.py runs it"),
    "bench sync": ran("uploaded", slow=True),
    "bench data show her2st": ran("HER2"),
    "bench data get stnet": Treatment("downloads 10 GB; tests/fetch runs it on a local server"),
    "bench data add ~/slides --name mine --patients map.csv": ran("found 3 sections"),
    "bench doctor": ran("torch", slow=True),
    "bench run --method ./pls.py,shuffled,mean --dataset demo --preset quick": ran(
        "shuffled:pls", slow=True
    ),
    "bench check ./pls.py": ran(" 0 failed", slow=True),
    "pip install --editable .": Treatment(
        f"{TOOL}; tests/test_documented_methods.py installs the page's package"
    ),
    "pip install spotbench-*.whl": Treatment(f"{TOOL}; 'make wheel' runs what is installed so"),
    "bench check pls": Treatment(
        "needs the package installed; tests/test_documented_methods.py installs and checks it"
    ),
    "bench run --method pls,shuffled,mean --dataset demo": Treatment(WEIGHTS),
    "bench run --method mclstexp,shuffled,mean --dataset her2st --executor slurm"
    " --profile gpu.yaml": Treatment("needs a Slurm cluster; tests/execute has one"),
    "pip install 'spotbench[ray]'": Treatment(f"{TOOL}; the extra is one of the project"),
    "bench run --method mclstexp,shuffled,mean --dataset her2st --executor ray"
    " --ray-address head:6379": Treatment("needs a Ray cluster; tests/execute has one"),
    "bench run --method mclstexp --dataset her2st": Treatment(DATA),
    "bench predict slide.jpg --dataset her2st --method mclstexp --spots spots.csv --um-per-px 0.7"
    " --out slide.h5ad --out slide.html": ran("slide.html"),
    "bench export --dataset her2st --method mclstexp --out model.spotbench": ran("model.spotbench"),
    "bench export --dataset her2st --method mclstexp --out predictions.h5ad": ran(
        "predictions.h5ad"
    ),
    "bench predict model.spotbench slide.jpg --spots spots.csv --um-per-px 0.7"
    " --out slide.h5ad": Treatment("needs a bundle; tests/prediction predicts from one"),
    "bench predict models:/m-0123456789abcdef0123456789abcdef slide.jpg --spots spots.csv"
    " --um-per-px 0.7 --tracking http://server:5000 --out slide.h5ad": Treatment(
        "needs a server; tests/prediction predicts from a store"
    ),
    "bench push model.spotbench lab/her2st-mclstexp --dry-run card": Treatment(BUNDLE),
    "bench push model.spotbench lab/her2st-mclstexp": Treatment(BUNDLE),
    "bench pull lab/her2st-mclstexp --out model.spotbench": Treatment(BUNDLE),
    "bench predict hf://lab/her2st-mclstexp slide.jpg --spots spots.csv --um-per-px 0.7"
    " --out slide.h5ad": Treatment(BUNDLE),
    "bench predict slide.svs --dataset her2st --method mclstexp --grid 100um --out slide.h5ad"
    " --executor slurm --profile gpu.yaml": Treatment(
        "needs a Slurm cluster; tests/prediction has one"
    ),
    "bench export --out results.spotbench.zip": ran("results.spotbench.zip"),
    'bench import results.spotbench.zip --name "Lab B"': Treatment(
        "needs the file of another laboratory; tests/sharing imports some"
    ),
    "bench verify 1c2b2cd1": Treatment("needs a run of that key; tests/sharing makes runs again"),
    "bench site results --out public": ran("public/index.html"),
    "bench submission check results.spotbench.zip": Treatment(
        "needs a file; tests/sharing checks some"
    ),
    "bench data get her2st --sections B4,C2": Treatment("a download; tests/fetch runs it"),
    "bench data verify stnet": Treatment(DATA),
    "bench data show stnet --plot stnet.png": Treatment(DATA),
    "bench data preview stnet BC23287_C1 --gene FASN": Treatment(DATA),
    "bench ui --results results": Treatment("as 'bench ui'"),
    "bench sync --results results --tracking http://server:5000": Treatment("needs a server"),
    "mlflow server --backend-store-uri sqlite:///mlflow.db"
    " --artifacts-destination ./artifacts": Treatment(f"{TOOL}: its options exist"),
    "bench run --method stnet --dataset her2st --tracking http://server:5000": Treatment(DATA),
    "bench tune --method mclstexp,ridge --dataset her2st --trials 50 --jobs 4": Treatment(DATA),
    "bench data add ~/slides --name mine --patients patients.csv": ran("found 3 sections"),
    "bench data show mine --plot mine.png": ran("wrote mine.png"),
    "bench data remove mine --yes": ran("removed dataset mine"),
    "bench data preview mine V10A-123_A1 --gene ERBB2": ran("ERBB2 in V10A-123_A1"),
    "bench run --method mclstexp,ridge,mean --dataset mine": Treatment(WEIGHTS),
    "bench list encoders": ran("uni2-h"),
    "bench run --dataset demo --preset quick --method ridge,mean --encoder test_resnet,test_vit"
    " --set weights=none --set input_size=160": ran("ridge[test_vit]", slow=True),
    "bench encoders get uni --token-env HF_TOKEN": Treatment("a gated download"),
    "bench encoders add uni pytorch_model.bin": Treatment(
        "needs the weights; tests/encoders adds small ones"
    ),
    "bench features compute --dataset demo --encoder test_resnet --set weights=none"
    " --set input_size=64": ran("6/6", slow=True),
    "bench features show --dataset demo --encoder test_resnet --set weights=none"
    " --set input_size=64": ran("test_resnet"),
    "bench run --dataset hest --protocol hest --method ridge --set encoder=resnet50-layer3"
    " --precision float32": Treatment("a gated download; tests/report runs a small task"),
    "bench tables --dataset hest --protocol hest --with-published": Treatment(
        "needs runs on gated data; tests/report has some"
    ),
    "bench run --method mclstexp,ridge --dataset her2st --seeds 0-4": Treatment(
        f"{DATA}; tests/cli runs seeds"
    ),
    "bench run --method mclstexp,ridge --dataset stnet --train-patients 1,2,4,8,all": Treatment(
        f"{DATA}; tests/cli runs fewer patients"
    ),
    "bench run --method mclstexp,ridge --dataset her2st --seeds 0-4 --train-patients 1,2,4,all"
    " --plan": Treatment(f"{DATA}; tests/cli plans"),
    "bench run --method ridge,mean --dataset demo --test-dataset demo-external --preset quick": ran(
        "tested on demo-external", slow=True
    ),
    "bench tables --layout paper --published her2st,cscc,alex10x --protocol published"
    " --out table1.tex": ran("table1.bib"),
    "bench tables --layout paper --dataset her2st --protocol published --with-published"
    " --format markdown": ran("**0.2"),
    "bench tables --layout paper --dataset her2st --protocol strict --ranks": ran("mean rank"),
    "bench tables --dataset her2st --columns all": ran("pooled PCC(ACG)"),
    "bench tables --dataset her2st --columns mse,pcc_acg --methods mclstexp,mean --decimals 3"
    " --spread interval": ran("mclstexp (quick"),
    "bench runs list": ran("mclstexp"),
    "bench runs rm --failed --yes": ran("nothing is removed"),
    'bench runs label 3fa2 "our method"': Treatment(
        "needs the key of a run; tests/test_inventory.py names rows"
    ),
    "bench figures --dataset her2st --width-mm 85 --format pdf,svg": ran("scores.svg", slow=True),
    "bench figures --dataset her2st --style talk": ran("scores.png", slow=True),
    "bench figures --dataset her2st,cscc --protocol published": Treatment(DATA),
    "bench data add hest-bench/HCC --name hcc --patients patients.csv": Treatment(
        "needs a task folder; tests/datasets makes some"
    ),
}


def cases(planned: bool) -> list:
    return [
        pytest.param(command, id=command, marks=[pytest.mark.slow] if how.slow else [])
        for command, how in COMMANDS.items()
        if bool(how.planned) == planned
    ]


def test_every_command_has_a_treatment():
    assert list(COMMANDS) == sorted(commands(), key=list(COMMANDS).index)
    assert set(COMMANDS) == set(commands())


# ------------------------------------------------------------------------------------- ran


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Results of quick runs on a small dataset that is named her2st, under two protocols."""
    folder = tmp_path_factory.mktemp("stored")
    small = write_tiny_dataset(folder / "small", "her2st")
    for protocol, methods in (("strict", "mclstexp,mean"), ("published", "mean")):
        network = NETWORK if "mclstexp" in methods else ()
        answer = call(
            *("run", "--method", methods, *small.options, *network),
            *("--protocol", protocol, "--folds", "0", "--tracking", "none"),
            *("--results", folder / "results"),
        )
        assert answer.status == 0, answer
    return folder / "results"


def write_slides(folder: Path) -> None:
    """Three sections in the legacy layout, and the page's table of their patients."""
    small = write_tiny_dataset(folder / "source")
    slides = folder / "slides"
    slides.mkdir()
    for ours, theirs in zip(("A1", "B1", "C1"), ("A1", "B1", "A1"), strict=True):
        slide = "V10A-124" if ours == "C1" else "V10A-123"
        cells = small.read_counts(ours)
        cells[0][1] = "ERBB2"
        small.write_counts(ours, cells)
        name = f"{slide}_{theirs}"
        shutil.copy(small.counts(ours), slides / f"{name}.tsv.gz")
        shutil.copy(small.spots(ours), slides / f"{name}_selection.tsv")
        shutil.copy(small.image(ours), slides / f"{name}.jpg")


def write_slide(folder: Path) -> None:
    """An image without expression, and its spots."""
    small = write_tiny_dataset(folder / "small")
    shutil.copy(small.image("A1"), folder / "slide.jpg")
    spots = [f"spot{x}x{y},{x},{y}" for x in (40, 80, 120) for y in (40, 80)]
    (folder / "spots.csv").write_text("\n".join(["barcode,x,y", *spots, ""]))


@pytest.fixture
def place(stored, tmp_path, monkeypatch):
    """The folder a reader of the pages would be in; home and datasets lie in it too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SPOTBENCH_DATA", str(tmp_path / "datasets"))
    shutil.copytree(stored, tmp_path / "results")
    write_slide(tmp_path)
    write_shown(tmp_path)
    text = PLUGIN.format(summary="Tilted mean", name="my_method", needs_image=False, before="",
                         fit="pass", predict="pass")  # fmt: skip
    Path("my_method.py").write_text(text.strip() + "\n")
    return tmp_path


@pytest.fixture
def mine(place):
    """The same folder with a dataset of the reader's own slides, as the page adds it."""
    write_slides(place)
    table = block(PATIENTS).text
    for name in ("map.csv", "patients.csv"):
        Path(name).write_text(table)
    return place


@pytest.mark.parametrize("command", cases(planned=False))
def test_ran(command, place, request):
    if "mine" in command:
        folder = request.getfixturevalue("mine")
        if " add " not in command:
            add = "data add ~/slides --name mine --patients patients.csv"
            assert call(*words(add, folder)).status == 0
    answer = call(*words(command, place)[1:])
    assert answer.status == 0, answer
    assert COMMANDS[command].prints in answer.stdout, answer


# --------------------------------------------------------------------------------- planned


def parsed(arguments: list[str]) -> dict:
    """Values of a command's parameters, as its function would be given them."""
    command = parser_of_bench()
    name = "bench"
    context = command.make_context(name, [], resilient_parsing=True)
    while hasattr(command, "commands"):
        name, *arguments = arguments
        assert name in command.commands, f"no command {name}"
        command = command.commands[name]
    context = command.make_context(name, arguments, parent=context)
    return context.params


def look_up(params: dict, folder: Path) -> None:
    """Look up what a command names: dataset, sections, genes' file, methods, rules, settings."""
    for dataset in names(params.get("dataset")):
        if dataset == "mine" or collection(dataset):
            continue
        card = dataset_card(dataset)
        for section in names(params.get("sections")) or filter(None, [params.get("section")]):
            card.section(section)
    chosen = []
    for label in names(params.get("method")):
        if label.endswith(".py"):
            chosen.append(load_method(str(folder / label)))
        elif label not in {"shuffled", "pls"}:
            assert label in find_methods()
            chosen.append(method_class(label))
    if params.get("protocol"):
        find_protocol(params["protocol"])
    assert params.get("executor", LOCAL) in {LOCAL, SLURM, RAY}
    if params.get("profile"):
        read_profile(params["profile"])
    for name, value in settings_of(params.get("settings")).items():
        fields = [method.Config.model_fields for method in chosen]
        assert any(name in known for known in fields), f"no method has the setting {name}"
        assert value is not None
    for method in chosen:
        if params.get("preset", "authors") != "authors":
            assert params["preset"] in method.presets


@pytest.mark.parametrize("command", cases(planned=True))
def test_planned(command, tmp_path, monkeypatch):
    assert COMMANDS[command].planned
    monkeypatch.chdir(tmp_path)
    Path("gpu.yaml").write_text(block(GPU).text)
    program, *arguments = words(command, tmp_path)
    CHECKS[program](arguments, tmp_path)


def check_bench(arguments, folder):
    look_up(parsed(arguments), folder)


def check_make(arguments, folder):
    target, *variables = arguments
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    for variable in variables:
        name, _, text = variable.partition("=")
        assert name == "ARGS"
        if "--help" not in text:
            speed_parser().parse_args(shlex.split(text))


def check_pip(arguments, folder):
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert arguments[0] == "install"
    if arguments[1].endswith(".whl"):
        assert arguments[1:] == [f"{project['name']}-*.whl"]
    elif arguments[1:] != ["--editable", "."]:
        name, extra = re.fullmatch(r"(\w+)\[(\w+)\]", arguments[1]).groups()
        assert name == project["name"]
        assert extra in project["optional-dependencies"]


def check_mlflow(arguments, folder):
    from mlflow.cli import cli

    name, *options = arguments
    cli.commands[name].make_parser(cli.make_context("mlflow", [name])).parse_args(options)


CHECKS = {"bench": check_bench, "make": check_make, "pip": check_pip, "mlflow": check_mlflow}

# ------------------------------------------------------------------- commands within sentences

STAND_INS = {"N": "2", "FILE": "file.yaml", "NAME": "demo", "D": "demo", "M": "mclstexp"}
OF_OTHERS = {
    "--gres": "sbatch",
    "--requeue": "sbatch",
    "--object-store-memory": "ray start",
}
"""Options in the pages that are another program's."""


def options_of_bench() -> dict[str, list]:
    """Options of all commands, with the parameters that have them."""
    found: dict[str, list] = {}
    waiting = [parser_of_bench()]
    while waiting:
        command = waiting.pop()
        waiting += getattr(command, "commands", {}).values()
        for parameter in command.params:
            for option in parameter.opts:
                found.setdefault(option, []).append(parameter)
    return found


def accepts(parameter, value: str | None) -> bool:
    if value is None or value.isupper() or value in STAND_INS:
        return True
    context = parser_of_bench().make_context("bench", [], resilient_parsing=True)
    try:
        parameter.process_value(context, [value] if parameter.multiple else value)
    except typer.TyperException:
        return False
    return not parameter.is_flag


@pytest.mark.parametrize(("page", "text"), [(p, t) for p, t in spans() if t.startswith("--")])
def test_an_option_within_a_sentence_is_one(page, text):
    option, *values = text.replace("=--", " --").split()
    if option in OF_OTHERS:
        assert option not in options_of_bench()
        return
    ours = options_of_bench().get(option, [])
    speed = speed_parser()._option_string_actions
    assert ours or (page == "performance.md" and option in speed), f"{page}: {option}"
    if ours:
        assert any(accepts(parameter, values[0] if values else None) for parameter in ours)


@pytest.mark.parametrize(("page", "text"), [(p, t) for p, t in spans() if not t.startswith("--")])
def test_a_command_within_a_sentence_is_one(page, text, tmp_path):
    program, *arguments = words(text, tmp_path)
    arguments = [STAND_INS.get(word, word) for word in arguments]
    if program != "bench":
        CHECKS[program]([word.replace("spots N", "spots 2") for word in arguments], tmp_path)
        return
    whole = parser_of_bench()
    command = whole
    for word in arguments:
        command = getattr(command, "commands", {}).get(word, command)
    assert command is not whole, f"{page}: {text}"
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in arguments if word.startswith("-")} <= known, f"{page}: {text}"


# ----------------------------------------------------------------------------- other blocks


def read_study_block(text, folder):
    path = folder / "mine.yaml"
    path.write_text(text)
    study = read_study(path)
    assert study.parts[0].seeds == (0, 1, 2)


def read_profile_block(text, folder):
    path = folder / "profile.yaml"
    path.write_text(text)
    assert read_profile(path)


def read_protocol_block(text, folder):
    path = folder / "mine.yaml"
    path.write_text(text)
    assert find_protocol(str(path)).name == "listed-genes"


def read_config_block(text, folder):
    path = folder / "run.yaml"
    path.write_text(text)
    fields = read_config(path)
    dataset_card(fields["dataset"])
    (method,) = (method_class(name) for name in fields["methods"])
    assert set(fields["config"]) <= set(method.Config.model_fields)


def read_card_block(text, folder):
    """The fields shown are fields of a card, with the rest as 'bench data add' writes it."""
    content = yaml.safe_load(text)
    content |= {"name": "mine", "licence": "the owner's", "platform": "Visium", "source": "slides"}
    content |= {"layout": "space_ranger", "spot_diameter_micrometres": 55.0}
    content["max_image_pixels"] = 10**9
    for section in content["sections"]:
        section["files"] = {"counts": {"path": "counts.h5"}}
    assert DatasetCard.model_validate(content).sections[0].micrometres_per_pixel == 0.5


def read_patients_block(text, folder):
    path = folder / "patients.csv"
    path.write_text(text)
    assert len(read_patients(path, [line.split(",")[0] for line in text.split()[1:]])) == 3


def run_api_block(text, folder):
    """Run the notebook's lines, on the demo."""
    module = types.ModuleType("notebook")
    exec(compile(text, "README.md", "exec"), vars(module))
    assert set(module.table["method"]) >= {"mean", "coordinates"}
    assert len(module.sections) == 6


def compile_model_block(text, folder):
    """Make the table of the page; its columns are those that a model's signature has."""
    compile(text, "tracking.md", "exec")
    module = types.ModuleType("notebook")
    exec(text[: text.index("mlflow.set_tracking_uri")], vars(module))
    assert set(module.spots.columns) == set(SPOT_COLUMNS)


def compile_only(text, folder):
    compile(text, "page", "exec")


METHOD = "tests/test_documented_methods.py runs and checks it"
DRAWN = "tests/prediction/test_drawn_by_others.py draws so"
READER = "tests/data/test_layouts.py installs and reads it"
TREE = "lists the files of a folder"
BLOCKS = {
    'README.md: python: import bench sections = bench.load_dataset("demo")': (
        *(run_api_block, "ran"),
    ),
    'adding-a-method.md: python: """Partial least squares on the features of a froz': (
        *(compile_only, METHOD),
    ),
    'adding-a-method.md: python: """An image encoder and a hidden layer that predic': (
        *(compile_only, METHOD),
    ),
    'adding-a-method.md: python: """A transformer over all spots of a section: each': (
        *(compile_only, METHOD),
    ),
    'adding-a-method.md: toml: [build-system] requires = ["setuptools>=77"] build': (None, METHOD),
    "clusters.md: yaml: partition: standard time: '4:00:00' cpus: 8 memory": (
        *(read_profile_block, "read as a profile"),
    ),
    GPU: (read_profile_block, "read as a profile"),
    "clusters.md: yaml: partition: preempt time: '2:00:00' cpus: 4 gpus: 1": (
        *(read_profile_block, "read as a profile"),
    ),
    "cluster.md: yaml: partition: gpu time: '08:00:00' cpus: 8 gpus: 1 me": (
        *(read_profile_block, "read as a profile"),
    ),
    'datasets.md: python: """Reader of wide tables: one CSV file per section': (
        *(compile_only, READER),
    ),
    'datasets.md: toml: [project] name = "spotbench-wide-table" version =': (None, READER),
    "datasets.md: yaml: layout: wide_table": (None, READER),
    'predict.md: python: store = spatialdata.read_zarr("slide.zarr") store.': (
        *(compile_only, DRAWN),
    ),
    'predict.md: python: sq.pl.spatial_scatter(adata, library_key="library_': (
        *(compile_only, DRAWN),
    ),
    "protocols.md: yaml: name: listed-genes version: 1 title: patient split": (
        *(read_protocol_block, "read as a protocol"),
    ),
    "tracking.md: python: import mlflow import pandas as pd spots = pd.DataF": (
        *(compile_model_block, "needs a server; tests/test_tracking_models.py loads models"),
    ),
    "studies.md: yaml: name: mine title: Two methods on my slides dataset": (
        *(read_study_block, "read as a study"),
    ),
    "tuning.md: yaml: method: mclstexp dataset: her2st protocol: strict": (
        *(read_config_block, "read as a settings file"),
    ),
    PATIENTS: (read_patients_block, "read as a table of patients"),
    "your-own-data.md: plain: slides/ V10A-123_A1/ image.tif full resolution, th": (None, TREE),
    "your-own-data.md: plain: slides/ sample/ tissue_image.tif outs/binned_outpu": (None, TREE),
    "your-own-data.md: yaml: title: 3 sections of 2 patients citation: not publ": (
        *(read_card_block, "read as a part of a card"),
    ),
    "your-own-data.md: plain: slides/ A1.h5ad raw counts, gene names in the inde": (None, TREE),
    "your-own-data.md: plain: hest/ st/TENX99.h5ad wsis/TENX99.tif metadata/TENX": (None, TREE),
    "your-own-data.md: plain: slides/ A1.zarr/ a store, or several; a store may": (None, TREE),
    "your-own-data.md: plain: slides/ A1.tsv.gz counts, a spot a row named 10x16": (None, TREE),
}
"""What is done with each block that holds no command, and why or where that is not to run it."""


def test_every_block_has_a_treatment():
    assert {one.title for one in blocks() if not one.commands} == set(BLOCKS)
    assert all(reason for _, reason in BLOCKS.values())


@pytest.mark.parametrize(
    "title",
    [
        pytest.param(title, marks=[pytest.mark.slow] if check is run_api_block else [])
        for title, (check, _) in BLOCKS.items()
        if check
    ],
)
def test_a_block_is_what_the_page_says(title, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    BLOCKS[title][0](block(title).text, tmp_path)
