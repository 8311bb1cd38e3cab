import json

import pytest

from bench.blocks.frozen import FrozenEncoderConfig
from bench.encoders.declaration import declaration, declarations, hub_repository, is_named
from bench.errors import BenchError, ConfigError, DataError
from bench.methods.mclstexp import MclSTExp
from bench.methods.ridge import Ridge

NAMED = [name for name in declarations() if is_named(name)]


@pytest.mark.parametrize("name", NAMED)
def test_every_encoder_says_what_it_is(name):
    of = declarations()[name]
    assert of.title
    assert of.licence
    assert of.citation
    assert of.dimension
    assert of.repository.count("/") == 1
    assert of.file or of.library == "remote"
    assert of.page == f"https://huggingface.co/{of.repository}"


def test_the_fields_default_encoders_are_there():
    wanted = {
        *("resnet50-layer3", "densenet121", "uni", "uni2-h", "virchow", "virchow2", "gigapath"),
        *("h-optimus-0", "h-optimus-1", "h0-mini", "conch", "phikon", "phikon-v2", "hibou-l"),
        *("midnight", "kaiko-s8", "kaiko-s16", "kaiko-b8", "kaiko-b16", "kaiko-l14"),
        *("lunit-s8", "lunit-s16", "gpfm"),
    }
    assert wanted <= set(declarations())


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("uni", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("h-optimus-0", (0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517)),
        ("h0-mini", (0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517)),
        ("kaiko-b8", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("midnight", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        ("lunit-s8", (0.70322989, 0.53606487, 0.66096631), (0.21716536, 0.26081574, 0.20723464)),
        ("hibou-l", (0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816)),
    ],
)
def test_pixel_statistics_are_those_of_the_training(name, mean, std):
    assert (declaration(name).mean, declaration(name).std) == (mean, std)


def test_settings_that_are_not_given_follow_the_encoder():
    config = Ridge.configure("her2st", "authors", {"encoder": "uni"})
    assert (config.weights, config.pixels) == ("pretrained", "encoder")
    assert (config.patch_size, config.input_size) == ("112um", 224)
    # The preset's small random encoder is left with all that belongs to it.
    quick = Ridge.configure("demo", "quick", {"encoder": "kaiko-s8"})
    assert (quick.weights, quick.patch_size, quick.input_size) == ("pretrained", "112um", 224)
    own = Ridge.configure("demo", "quick", {"encoder": "uni", "patch_size": 100, "weights": "none"})
    assert (own.weights, own.patch_size, own.input_size) == ("none", 100, 224)
    assert Ridge.configure("demo", "quick").input_size == 64
    assert FrozenEncoderConfig().patch_size == 224
    assert FrozenEncoderConfig(encoder="conch").patch_size == "256um"


def test_networks_that_are_trained_follow_it_too():
    config = MclSTExp.configure("alex10x", "authors", {"encoder": "lunit-s8"})
    assert (config.pixels, config.weights) == ("encoder", "pretrained")
    assert (config.patch_size, config.input_size) == ("112um", 224)
    assert MclSTExp.configure("alex10x", "authors").pixels == "bgr255"


def test_stored_settings_are_read_as_they_are():
    stored = Ridge.configure("her2st", "authors", {"encoder": "uni"}).model_dump(mode="json")
    stored |= {"patch_size": 224, "pixels": "imagenet"}
    assert Ridge.Config.model_validate(stored).model_dump(mode="json") == stored


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("uni3", "uni"),
        ("Virchow-2", "virchow2"),
        ("hf-hub:uni", "OWNER/NAME"),
        ("hf-hub:../etc/passwd", "OWNER/NAME"),
        ("hf-hub:a/..", "OWNER/NAME"),
        ("hf-hub:a/b@--x", "OWNER/NAME"),
        ("http://x/y", "unknown encoder"),
        ("timm:hf-hub:a/b", "unknown encoder"),
        ("hf-hub:owner/name", "bench encoders get hf-hub:owner/name"),
        ("", "unknown encoder"),
        ("\x1b[31m" * 100, "unknown encoder"),
    ],
)
def test_a_wrong_name_is_refused_in_one_line(name, said):
    with pytest.raises(BenchError, match=said.replace("[", r"\[")) as refusal:
        declaration(name)
    assert len(str(refusal.value)) < 400


def test_a_hub_name_may_state_its_revision():
    assert hub_repository("hf-hub:Owner/name.v1@abc123") == ("Owner/name.v1", "abc123")
    assert hub_repository("hf_hub:Owner/name") == ("Owner/name", "main")
    assert hub_repository("uni") is None


def test_a_folder_of_timm_describes_its_model(tmp_path):
    content = {
        "architecture": "vit_small_patch8_224",
        "model_args": {"dynamic_img_size": True},
        "global_pool": "token",
        "pretrained_cfg": {
            "mean": [0.7, 0.5, 0.6],
            "std": [0.2, 0.3, 0.2],
            "input_size": [3, 256, 256],
            "interpolation": "bicubic",
            "license": "mit",
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(content))
    of = declaration(f"local-dir:{tmp_path}")
    assert of.arguments == {"dynamic_img_size": True, "global_pool": "token"}
    assert (of.mean, of.std, of.input_size) == ((0.7, 0.5, 0.6), (0.2, 0.3, 0.2), 256)
    assert (of.resampling, of.licence) == ("bicubic", "mit")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"architecture": 3}', "[" * 100_000, "null"])
def test_a_folder_that_describes_no_model_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(DataError, match="does not describe a model of timm"):
        declaration(f"local-dir:{tmp_path}")


def test_a_folder_without_a_description_is_refused(tmp_path):
    with pytest.raises(DataError, match="missing"):
        declaration(f"local-dir:{tmp_path}")


def test_a_statistic_of_timms_own_is_used():
    of = declaration("timm:vit_base_patch16_224.augreg_in21k")
    assert (of.mean, of.std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with pytest.raises(ConfigError, match="greater than 0"):
        Ridge.configure("demo", "quick", {"std": [0.0, 1.0, 1.0]})
