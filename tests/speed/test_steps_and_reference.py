import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from bench.errors import DataError
from bench.method import Context
from bench.registry import method_class
from bench.speed.fold import SpeedFold
from bench.speed.measure import SpeedRequest, loss_trajectories
from bench.speed.reference import (
    NoReferenceError,
    ReferencePatches,
    ReferenceSections,
    ReferenceSpots,
    image_change,
    reference_batches,
)
from bench.speed.steps import (
    NoTrainingError,
    images_in,
    optimizer_of,
    random_batch,
    step,
    training_parts,
    unaugmented,
    unlogged,
)

EDGE = 32
SMALL = {"encoder": "test_resnet", "weights": "none", "patch_size": EDGE, "batch_size": 6}
OF_MCLSTEXP = {"heads": 2, "head_dim": 8, "projection_dim": 16}


def configured(name, **changes):
    kind = method_class(name)
    own = OF_MCLSTEXP if name == "mclstexp" else {}
    return kind, kind.configure("", "authors", {**SMALL, **own, **changes})


@pytest.mark.parametrize("name", ["mclstexp", "stnet", "bleep"])
def test_losses_of_harness_and_plain_loop_are_equal(fold, name):
    kind, config = configured(name)  # bleep drops out, which must follow from the same seeds
    found = loss_trajectories(kind, config, fold, SpeedRequest(trajectory=7))
    assert len(found["harness"]) == len(found["reference"]) == 7  # goes into the second epoch
    assert found["largest_difference"] <= 1e-6
    assert len(set(found["harness"])) == 7


def test_losses_differ_from_other_weights(fold):
    kind, config = configured("mclstexp")
    first, other = (
        loss_trajectories(kind, config, fold, SpeedRequest(trajectory=2, seed=seed))
        for seed in (0, 1)
    )
    assert abs(first["harness"][0] - other["reference"][0]) > 1e-2


def test_the_plain_loop_crops_the_same_patches_also_beyond_the_border(fold):
    section = fold.training.train[0]
    source = section.patch_source
    centres = source.centres.copy()
    centres[:2] = [[3.7, 4.2], [9 * EDGE - 0.1, 100.0]]
    source = type(source)(source.image, source.image_hash, source.max_image_pixels, centres)
    section = type(section)(**{**vars(section), "patch_source": source})
    patches = ReferencePatches([section], EDGE, None)
    spots = ReferenceSpots(patches, {}, augment=False)
    cropped = torch.stack([spots[spot]["patches"] for spot in range(len(spots))])
    np.testing.assert_array_equal(cropped.permute(0, 2, 3, 1), section.patches(EDGE))
    assert (cropped[0, :, 0, 0] == 0).all()
    assert torch.equal(ReferenceSections(patches, {})[0]["patches"], cropped)
    assert ReferencePatches([section], EDGE, EDGE // 2).crop(0, 2).size == (EDGE // 2,) * 2


def test_the_plain_loop_refuses_what_it_cannot_feed(fold):
    kind, config = configured("mclstexp")
    _, loader = training_parts(kind(config), fold.training, Context())
    sections = fold.training.sections
    with pytest.raises(NoReferenceError, match="batches of spots"):
        reference_batches(loader, sections[:1], config, None)
    with pytest.raises(NoReferenceError, match="'augment'"):
        reference_batches(loader, sections, object(), None)
    with pytest.raises(NoReferenceError, match="no random change 'blur'"):
        reference_batches(loader, sections, config, "blur")
    missing = type(sections[0])(**{**vars(sections[0]), "patch_source": None})
    with pytest.raises(NoReferenceError, match="whole images"):
        ReferencePatches([missing], EDGE, None)


def test_random_changes_of_single_images_are_those_that_are_released():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    assert image_change(False)(image) is image
    turned = {np.asarray(image_change(True)(image)).tobytes() for _ in range(200)}
    symmetries = {
        np.rot90(side, turns).tobytes() for side in (pixels, pixels[::-1]) for turns in range(4)
    }
    assert turned == symmetries
    jittered = np.asarray(image_change("jitter_flip_rotate")(image))
    assert jittered.shape == pixels.shape
    assert jittered.tobytes() not in symmetries


def test_parts_of_a_training_are_those_before_its_first_step(fold):
    kind, config = configured("stnet")
    context = Context(seed=3)
    module, loader = training_parts(kind(config), fold.training, context)
    again, _ = training_parts(kind(config), fold.training, context)
    assert context.callbacks == []
    for name, value in module.state_dict().items():
        torch.testing.assert_close(value, again.state_dict()[name], rtol=0, atol=0)
    batch = next(iter(loader))
    assert images_in(batch) == 6
    with pytest.raises(NoTrainingError, match="mean trains no network"):
        training_parts(method_class("mean")(), fold.training, context)


def test_a_step_on_a_ready_batch_learns_and_leaves_the_module_as_it_was(fold):
    kind, config = configured("stnet", learning_rate=1e-3)
    module, loader = training_parts(kind(config), fold.training, Context())
    real = next(iter(loader))
    batch = random_batch(real)
    assert batch["patches"].shape == real["patches"].shape
    assert batch["patches"].stride() == real["patches"].stride()
    assert not torch.equal(batch["patches"], real["patches"])
    assert batch["target"] is real["target"]
    change = module.augment
    optimizer = optimizer_of(module)
    module.train()
    with unlogged(module), unaugmented(module):
        assert module.augment(real["patches"]) is real["patches"]
        losses = [float(step(module, optimizer, batch)) for _ in range(8)]
    assert losses[-1] < 0.9 * losses[0]
    assert module.augment is change
    assert "log" not in vars(module)


def test_changes_that_are_modules_are_switched_off_too():
    class Recipe(nn.Module):
        def __init__(self):
            super().__init__()
            self.augment = nn.Dropout()

    recipe = Recipe()
    change, ones = recipe.augment, torch.ones(50)
    with unaugmented(recipe):
        assert torch.equal(recipe.augment(ones), ones)
    assert recipe.augment is change
    assert not torch.equal(recipe.augment(ones), ones)


def test_an_image_that_cannot_be_read_is_named(fold, tmp_path):
    section = fold.training.train[0]
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    source = type(section.patch_source)(broken, "sha256:0", 10**6, section.spatial)
    section = type(section)(**{**vars(section), "patch_source": source})
    with pytest.raises(DataError, match=r"broken\.png"):
        ReferencePatches([section], EDGE, None)


def test_a_made_up_fold_has_the_shapes_that_were_asked_for(fold):
    assert isinstance(fold, SpeedFold)
    assert sum(map(len, fold.training.sections)) == 30
    assert len(fold.slide) == 5
    assert not hasattr(fold.slide, "target")
    assert fold.slide.patches().shape == (5, EDGE, EDGE, 3)
    assert all(s.expression.shape == (len(s), 7) for s in fold.training.sections)
