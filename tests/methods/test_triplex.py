"""TRIPLEX as a method: sections of every kind, checkpoints, settings, released behaviour."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.api import ConfigError, Context, DataError
from bench.blocks.encoders import image_encoder
from bench.contract.small_fold import GENES, SPOTS, first_spots, with_arrays
from bench.data.images.patches import PatchSource
from bench.methods.triplex import Triplex
from bench.methods.triplex.network import residual_network
from tests.methods.fits import fitted_by, predict

fitted = fitted_by("triplex")


@pytest.fixture(scope="module")
def usual(data):
    return fitted(data)[0]


def rearranged(slide, rows):
    rows = np.asarray(rows)
    source = replace(slide.patch_source, centres=slide.spatial[rows])
    return replace(
        slide, array_xy=slide.array_xy[rows], spatial=slide.spatial[rows], patch_source=source
    )


@pytest.mark.parametrize("variant", ["2025", "cvpr"])
def test_the_order_of_the_spots_does_not_matter(data, slide, variant):
    method, _ = fitted(data, variant=variant)
    order = np.random.default_rng(0).permutation(SPOTS)
    found = predict(method, rearranged(slide, order))
    np.testing.assert_allclose(found, predict(method, slide)[order], rtol=0, atol=2e-5)


@pytest.mark.parametrize("variant", ["2025", "cvpr"])
def test_spots_at_one_place_and_sections_of_one_spot_are_predicted(data, slide, variant):
    method, _ = fitted(data, variant=variant, epochs=1)
    twice = predict(method, rearranged(slide, [3, 0, 3, 5]))
    assert np.isfinite(twice).all()
    np.testing.assert_allclose(twice[0], twice[2], rtol=0, atol=1e-6)
    assert predict(method, first_spots(slide, 1)).shape == (1, GENES)
    alone = (first_spots(data.train[0], 1), data.train[1])
    method, _ = fitted(replace(data, train=alone), variant=variant, epochs=1)
    assert np.isfinite(predict(method, slide)).all()


def test_a_far_spot_changes_others_by_the_section_and_not_by_the_tiles(usual, slide):
    assert np.isfinite(predict(usual, with_arrays(slide, {"array_xy": 15 * slide.array_xy}))).all()
    usual._begin_with(usual.encoder_seed, Context(seed=1))
    half = usual.inputs(rearranged(slide, range(10)))
    whole = usual.inputs(slide)
    for name in ("neighbours", "mask", "features"):
        np.testing.assert_allclose(half[name], whole[name][:10], rtol=0, atol=1e-6)


def test_mask_and_features_go_with_the_image_and_positions_with_the_spot(usual, slide):
    usual._begin_with(usual.encoder_seed, Context(seed=1))
    plain, permuted = usual.inputs(slide), usual.inputs(slide.with_images_shuffled(3))
    order = slide.with_images_shuffled(3).image_order
    for name in ("neighbours", "mask", "features"):
        np.testing.assert_array_equal(permuted[name], plain[name][order])
    np.testing.assert_array_equal(permuted["position"], plain["position"])


def test_the_mask_is_that_of_the_border_of_the_image(usual, slide):
    usual._begin_with(usual.encoder_seed, Context(seed=1))
    mask = usual.inputs(slide)["mask"].reshape(SPOTS, 5, 5)
    assert not mask[:, [0, 1, 3, 4]].any()  # the image is as high as one patch
    row = mask[:, 2]
    np.testing.assert_array_equal(row[0], [False, False, True, True, True])
    np.testing.assert_array_equal(row[1], [False, True, True, True, True])
    np.testing.assert_array_equal(row[10], [True] * 5)
    np.testing.assert_array_equal(row[SPOTS - 2], [True, True, True, True, False])


def test_positions_are_corners_of_patches_or_array_row_and_column(data, usual, slide):
    corners = slide.spatial - slide.patch_pixels / 2
    np.testing.assert_allclose(usual._position(slide), corners, rtol=1e-6)
    method = Triplex(Triplex.configure("small", "tiny", {"variant": "cvpr"}))
    np.testing.assert_array_equal(method._position(slide), slide.array_xy[:, ::-1])


def test_the_released_grid_is_that_of_the_first_training_section_and_is_saved(
    data, slide, tmp_path
):
    method, _ = fitted(data, as_released=("grid",), epochs=1)
    assert method.grid == (SPOTS, 1)
    method.save(tmp_path)
    loaded = Triplex.load(tmp_path, method.config)
    assert loaded.grid == (SPOTS, 1)
    short = first_spots(slide, 7)
    np.testing.assert_array_equal(predict(loaded, short), predict(method, short))
    own = Triplex.load(tmp_path, method.config)
    own.grid = None
    assert not np.array_equal(predict(own, short), predict(method, short))
    assert fitted(data, epochs=1)[0].grid is None


def test_released_dropout_follows_from_seed_and_section_alone(data, slide):
    method, _ = fitted(data, as_released=("dropout",), epochs=1)
    other = replace(first_spots(slide, 7), name="another")
    alone = predict(method, slide)
    in_company = method.predict([other, slide], Context(seed=1))[1]
    np.testing.assert_array_equal(alone, in_company)
    assert not np.array_equal(alone, method.predict([slide], Context(seed=2))[0])


def test_another_encoder_than_the_fit_s_is_refused(usual, slide):
    config = usual.config.model_copy(update={"input_size": 24, "pixels": "rgb01"})
    method = Triplex(config)
    method.network, method.grid = usual.network, None
    method.encoder_seed, method.encoder_identity = usual.encoder_seed, usual.encoder_identity
    with pytest.raises(DataError, match="is not the one that the method was fitted with"):
        predict(method, slide)


def test_early_stopping_says_what_to_set_where_nothing_is_held_out(data):
    with pytest.raises(ConfigError, match=r"validation sections; .*patience=null and a number of"):
        fitted(replace(data, validation=()), patience=3)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["plateau", "step"])
def test_the_rate_falls_on_the_validation_sections_or_by_epochs(data, schedule):
    # No batch of the last, larger rate can be seen in the weights if the rate has fallen to 0.
    settings = {"decay_patience": 0, "decay_epochs": 1, "decay": 1e-12, "patience": 9}
    short, _ = fitted(data, schedule="step", **settings, epochs=1)
    longer, context = fitted(data, schedule=schedule, **settings, epochs=4)
    assert len(context.curves) == 4
    assert all("val_loss" in row for row in context.curves)
    if schedule == "step":
        assert torch.allclose(short.network.fc.weight, longer.network.fc.weight, atol=1e-5)


def test_the_authors_settings_are_those_of_variant_and_dataset():
    def of(dataset, **changes):
        return Triplex.configure(dataset, "authors", changes)

    her2st = of("her2st")
    assert (her2st.depth, her2st.heads, her2st.mlp_ratio) == ((1, 3, 3), (4, 16, 16), (4, 4, 1))
    assert (her2st.dropout, her2st.epochs, her2st.patience) == ((0.2, 0.1, 0.3), 1000, 20)
    assert (her2st.patch_size, her2st.input_size, her2st.optimizer) == ("112um", 224, "adamw")
    assert (of("cscc").depth, of("cscc").epochs) == ((2, 2, 4), 200)
    assert of("stnet").dropout == (0.4, 0.1, 0.3)
    cvpr = of("her2st", variant="cvpr")
    assert (cvpr.depth, cvpr.heads, cvpr.dropout) == ((1, 5, 4), (4, 8, 4), (0.4, 0.3, 0.3))
    assert (cvpr.patch_size, cvpr.optimizer, cvpr.schedule) == (224, "adam", "step")
    assert (cvpr.weight_decay, cvpr.decay, cvpr.decay_epochs, cvpr.epochs) == (0.0, 0.9, 50, 200)
    assert of("cscc", variant="cvpr").heads == (8, 16, 16)
    assert of("stnet", variant="cvpr", depth=(1, 2, 1)).depth == (1, 2, 1)
    quick = Triplex.configure("stnet", "quick", {"variant": "cvpr"})
    assert quick.depth == Triplex.configure("stnet", "quick").depth


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tiles": 4}, "tiles must be odd"),
        ({"kernel": 2}, "kernel must be odd"),
        ({"depth": (1, 1, 1)}, "depth"),
        ({"as_released": ["masks"]}, "as_released"),
        ({"dropout": (1.0, 0, 0)}, "dropout"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        Triplex.configure("small", "tiny", changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"heads": (5, 4, 4)}, "5 heads do not divide 96 features"),
        ({"variant": "cvpr", "target_channels": 4}, "needs frozen features as wide .* 32, not 96"),
    ],
)
def test_shapes_that_do_not_fit_the_features_are_refused(data, changes, said):
    with pytest.raises(ConfigError, match=said):
        fitted(data, **changes)


# ------------------------------------------------------------------------------- checkpoints


class Unknown(dict):
    """A class of the authors' environment."""


def checkpoint(path, method, prefix):
    state = {prefix + name: tensor for name, tensor in method.network.state_dict().items()}
    content = {"pytorch-lightning_version": "2.0", "state_dict": state}
    torch.save({**content, "hyper_parameters": {"config": Unknown(a=1)}}, path)
    return path


@pytest.mark.parametrize(("variant", "prefix"), [("2025", "model."), ("cvpr", "")])
def test_a_checkpoint_of_either_form_predicts_what_its_network_does(
    data, slide, tmp_path, variant, prefix
):
    method, _ = fitted(data, variant=variant, epochs=1)
    path = checkpoint(tmp_path / "epoch=03.ckpt", method, prefix)
    context = Context(seed=1)
    released = Triplex.from_released(path, method.config, data, context)
    np.testing.assert_array_equal(predict(released, slide), predict(method, slide))
    assert "4 and 4 are those of the settings (heads)" in context.notes[0]
    other = "cvpr" if variant == "2025" else "2025"
    config = Triplex.configure("small", "tiny", {"variant": other})
    with pytest.raises(ConfigError, match=f"of the form {variant}, .* set variant={variant}"):
        Triplex.from_released(path, config, data, Context())


def test_a_checkpoint_that_does_not_fit_is_refused_in_one_line(data, usual):
    def refused(said, state=None, panel=data, **changes):
        config = Triplex.configure("small", "tiny", changes)
        with pytest.raises((ConfigError, DataError), match=said) as caught:
            Triplex.from_released(
                state or usual.network.state_dict(), config, panel, Context(seed=1)
            )
        assert "\n" not in str(caught.value)

    whole = usual.network.state_dict()
    refused("6 genes.*has 5", panel=replace(data, panel=data.panel[:5]))
    refused("another number of tiles", tiles=3)
    refused("7 heads do not divide 96", heads=(7, 4, 4))
    refused("'fc.weight' is missing", {k: v for k, v in whole.items() if k != "fc.weight"})
    refused("unexpected tensors, first 'x'", {**whole, "x": torch.ones(1)})
    refused(
        "missing, first 'fc_global.bias'", {k: whole[k] for k in whole if k != "fc_global.bias"}
    )


def test_one_head_has_no_output_projection_and_is_told_by_the_tensors(data, slide):
    method, _ = fitted(data, heads=(1, 1, 1), epochs=1)
    assert not any("to_out" in name for name in method.network.state_dict())
    released = Triplex.from_released(
        method.network.state_dict(), method.config, data, Context(seed=1)
    )
    np.testing.assert_array_equal(predict(released, slide), predict(method, slide))


# -------------------------------------------------------------------------------- the start


def resnet18():
    torch.manual_seed(3)
    return image_encoder("resnet18", "none").model.state_dict()


def released_file(path, prefix="model.resnet."):
    """A file as that of the authors' ResNet-18, with its own classifier."""
    state = {prefix + name: tensor for name, tensor in resnet18().items()}
    state |= {f"{prefix}fc.1.weight": torch.ones(4, 512), f"{prefix}fc.1.bias": torch.ones(4)}
    torch.save({"state_dict": state, "pytorch-lightning_version": "1.0"}, path)
    return path


@pytest.mark.slow
def test_one_released_file_starts_the_trained_and_the_frozen_network(data, tmp_path):
    path = released_file(tmp_path / "tenpercent_resnet18.ckpt")
    method, _ = fitted(
        data,
        encoder="resnet18",
        weights=str(path),
        target_weights=None,
        target_channels=64,
        learning_rate=1e-12,
        epochs=1,
    )
    assert method.network.dim == 512
    started = method.network.target_encoder.state_dict()
    assert torch.allclose(started["4.0.conv1.weight"], resnet18()["layer1.0.conv1.weight"])
    assert torch.allclose(started["7.1.conv2.weight"], resnet18()["layer4.1.conv2.weight"])


def test_a_start_of_another_network_is_refused(data, tmp_path):
    path = released_file(tmp_path / "a.ckpt", "")
    with pytest.raises(DataError, match=r"a\.ckpt: tensor '0.weight' is \(64, 3, 7, 7\)"):
        fitted(data, target_weights=str(path))
    torch.save({"conv1.weight": torch.ones(1)}, tmp_path / "b.pt")
    with pytest.raises(DataError, match="tensors missing"):
        fitted(data, target_weights=str(tmp_path / "b.pt"))
    with pytest.raises(DataError, match="weight file is missing"):
        fitted(data, target_weights=str(tmp_path / "none.pt"))


def test_the_trained_network_is_torchvision_s_resnet18():
    from torchvision.models import resnet18 as whole

    published = {name for name, _ in whole().named_parameters() if not name.startswith("fc")}
    own = residual_network(64)
    assert len(list(own.parameters())) == len(published)
    assert sum(p.numel() for p in own.parameters()) == 11_176_512


def test_stored_patches_are_refused_as_they_show_no_neighbours(data, usual, slide, tmp_path):
    class Stored(PatchSource):
        def extent(self):
            raise DataError("holds patches and no whole image")

    source = slide.patch_source
    given = (source.image, "sha256:other", source.max_image_pixels, source.centres)
    with pytest.raises(DataError, match="no whole image"):
        predict(usual, replace(slide, patch_source=Stored(*given)))
