"""How each command of the pages is tested: truly, or planned, and why."""

from __future__ import annotations

from dataclasses import dataclass

DATA = "needs the dataset's images or counts, which are downloads"
WEIGHTS = "the authors' preset needs ImageNet weights, and a GPU to end soon"
BUNDLE = "needs a bundle and Hugging Face; tests/prediction has a faked hub"
RUNS = "needs the runs of the lines above it"
TOOL = "another program's command; what it is given is checked"
GPU = "clusters.md: yaml: partition: gpu time: '1-00:00:00' cpus: 8 gpus: gp"
PATIENTS = "your-own-data.md: csv: section,patient V10A-123_A1,P1 V10A-123_B1,P1 V10A"


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
