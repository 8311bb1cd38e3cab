import math

import pytest
import torch
from torchvision.transforms.v2 import functional

from bench.blocks.augment import (
    BRIGHTNESS,
    CONTRAST,
    SATURATION,
    augmentation,
    flip_rotate,
    jitter,
)

ADJUST = {
    BRIGHTNESS: functional.adjust_brightness,
    CONTRAST: functional.adjust_contrast,
    SATURATION: functional.adjust_saturation,
}
RANDOM_KINDS = ["jitter_flip_rotate", "quarter_turns"]


def patches(n, height=20, width=20, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, height, width), generator=generator).to(torch.uint8)


@pytest.mark.parametrize("colours", ["random", "gray", "white", "dark"])
def test_jitter_equals_torchvisions(colours):
    n = 24
    before = {
        "random": patches(n, 40, 30),
        "gray": patches(n, 40, 30)[:, :1].repeat(1, 3, 1, 1),
        "white": torch.full((n, 3, 40, 30), 255, dtype=torch.uint8),
        "dark": patches(n, 40, 30) // 64,
    }[colours]
    generator = torch.Generator().manual_seed(1)
    operations = torch.rand(n, 3, generator=generator).argsort(dim=1)
    factors = 0.5 + torch.rand(n, 3, generator=generator)
    wanted = []
    for patch, order, strength in zip(before, operations.tolist(), factors.tolist(), strict=True):
        for operation, factor in zip(order, strength, strict=True):
            patch = ADJUST[operation](patch, factor)
        wanted.append(patch)
    kept = before.clone()
    found = jitter(before, operations, factors)
    assert torch.equal(before, kept)
    different = found.int() - torch.stack(wanted).int()
    # A level apart where torchvision's rounding of a product falls to the other side.
    assert (different != 0).float().mean() < 1e-4
    assert found.dtype == torch.uint8


@pytest.mark.parametrize("shape", [(40, 40), (31, 31), (24, 37)])
def test_flip_and_rotation_equal_torchvisions(shape):
    before = patches(60, *shape)
    generator = torch.Generator().manual_seed(2)
    flipped = torch.rand(60, generator=generator) < 0.5
    degrees = 360 * torch.rand(60, generator=generator) - 180
    wanted = [
        functional.rotate(functional.horizontal_flip(patch) if flip else patch, angle)
        for patch, flip, angle in zip(before, flipped.tolist(), degrees.tolist(), strict=True)
    ]
    found = flip_rotate(before, flipped, degrees)
    # A source just between two pixels is either of them.
    assert (found != torch.stack(wanted)).any(dim=1).float().mean() < 1e-3


def test_rotation_by_quarter_turns_moves_each_pixel():
    before = patches(4, 9, 9)
    found = flip_rotate(before, torch.zeros(4, dtype=torch.bool), torch.tensor([0, 90, 180, -90.0]))
    for turns in range(4):
        assert torch.equal(found[turns], torch.rot90(before[turns], turns, dims=(1, 2)))


def test_corners_are_black_after_a_turn_by_45_degrees():
    white = torch.full((1, 3, 20, 20), 255, dtype=torch.uint8)
    found = flip_rotate(white, torch.tensor([False]), torch.tensor([45.0]))[0]
    assert not found[:, [0, 0, -1, -1], [0, -1, 0, -1]].any()
    # An octagon is left of the square.
    assert (found > 0).float().mean().item() == pytest.approx(2 * (math.sqrt(2) - 1), abs=0.03)


@pytest.mark.parametrize("kind", RANDOM_KINDS)
def test_changes_differ_by_patch_and_follow_from_the_seed(kind):
    before = patches(1).repeat(12, 1, 1, 1)
    kept = before.clone()
    torch.manual_seed(1)
    first = augmentation(kind)(before)
    second = augmentation(kind)(before)
    torch.manual_seed(1)
    assert torch.equal(augmentation(kind)(before), first)
    assert not torch.equal(first, second)
    assert torch.equal(before, kept)
    assert len({patch.numpy().tobytes() for patch in first}) > 3


@pytest.mark.parametrize("kind", RANDOM_KINDS)
def test_the_order_of_memory_is_kept_and_changes_no_value(kind):
    before = patches(11)
    torch.manual_seed(1)
    wanted = augmentation(kind)(before)
    torch.manual_seed(1)
    found = augmentation(kind)(before.contiguous(memory_format=torch.channels_last))
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("kind", ["none", *RANDOM_KINDS])
@pytest.mark.parametrize("n", [0, 1, 9])
def test_shape_and_type_are_kept(kind, n):
    found = augmentation(kind)(patches(n))
    assert found.shape == (n, 3, 20, 20)
    assert found.dtype == torch.uint8


@pytest.mark.parametrize("kind", RANDOM_KINDS)
def test_no_value_of_another_device_is_waited_for(kind):
    # Reading a value of a tensor on the device 'meta' is an error.
    found = augmentation(kind)(torch.empty(3, 3, 8, 8, dtype=torch.uint8, device="meta"))
    assert found.device.type == "meta"


def test_no_augmentation_changes_and_draws_nothing():
    before = patches(2)
    state = torch.get_rng_state()
    assert torch.equal(augmentation("none")(before), before)
    assert torch.equal(torch.get_rng_state(), state)


def test_each_symmetry_of_the_square_is_drawn_equally_often():
    patch = patches(1, 4, 4)
    torch.manual_seed(3)
    found = augmentation("quarter_turns")(patch.repeat(4000, 1, 1, 1))
    symmetries = [
        torch.rot90(mirrored, turns, dims=(1, 2))
        for mirrored in (patch[0], patch[0].flip(2))
        for turns in range(4)
    ]
    counts = torch.tensor([(found == one).all(3).all(2).all(1).sum() for one in symmetries])
    assert counts.sum() == 4000
    # Standard deviation of a count: 21.
    assert (counts - 500).abs().max() < 90


@pytest.fixture
def arguments(monkeypatch):
    """What a large batch is changed by: operations, factors, flips and angles."""
    seen = {}

    def keep_jitter(some, operations, factors):
        seen.setdefault("operations", []).append(operations)
        seen.setdefault("factors", []).append(factors)
        return some

    def keep_turn(some, flipped, degrees):
        seen.setdefault("flipped", []).append(flipped)
        seen.setdefault("degrees", []).append(degrees)
        return some

    monkeypatch.setattr("bench.blocks.augment.jitter", keep_jitter)
    monkeypatch.setattr("bench.blocks.augment.flip_rotate", keep_turn)
    torch.manual_seed(4)
    augmentation("jitter_flip_rotate")(patches(6000, 2, 2))
    return {name: torch.cat(parts) for name, parts in seen.items()}


def test_every_order_of_the_colour_operations_is_drawn_equally_often(arguments):
    orders, counts = arguments["operations"].unique(dim=0, return_counts=True)
    assert len(orders) == 6
    assert torch.equal(orders.sort(dim=1).values, torch.arange(3).expand(6, 3))
    # Standard deviation of a count: 29.
    assert (counts - 1000).abs().max() < 120


def test_factors_angles_and_flips_are_uniform(arguments):
    quarters = torch.tensor([0.25, 0.5, 0.75])

    def quantiles(values, low, high):
        assert low <= values.min()
        assert values.max() <= high
        return ((values - low) / (high - low)).quantile(quarters)

    for step in range(3):
        factors = quantiles(arguments["factors"][:, step], 0.5, 1.5)
        torch.testing.assert_close(factors, quarters, atol=0.03, rtol=0)
    angles = quantiles(arguments["degrees"], -180, 180)
    torch.testing.assert_close(angles, quarters, atol=0.03, rtol=0)
    assert arguments["flipped"].float().mean().item() == pytest.approx(0.5, abs=0.03)
    everything = torch.cat(
        [arguments["factors"], arguments["degrees"][:, None], arguments["flipped"][:, None]], dim=1
    )
    related = torch.corrcoef(everything.T) - torch.eye(5)
    assert related.abs().max() < 0.06
