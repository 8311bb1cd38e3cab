"""The scale that patches of a new image are brought to."""

import numpy as np
import pytest
from PIL import Image

from bench.errors import DataError
from bench.prediction.new_image import new_image
from bench.prediction.slides import TrainedScale, slide_of_image
from bench.prediction.spots import ImageSpots

TRAINED = TrainedScale("ridge", 10, False, (2.0,))


@pytest.mark.parametrize(
    ("um", "image_scale", "expected"),
    [
        (2.0, 1.0, 2.0),
        (1.0, 1.0, 2.0),
        (7.9, 1.0, 2.0),
        (2.0, 0.1, 2.0),  # as reduced as it may be: the training images are judged alike
        (0.1, 0.05, 2.0),  # a reduced image of a fine slide has the scale of the training
        (0.1, 0.03, 2.0),
    ],
)
def test_patches_show_as_much_tissue_as_in_training(tmp_path, um, image_scale, expected):
    slide = made(tmp_path, um, image_scale)
    assert slide.micrometres_per_pixel == expected
    # The same tissue, whatever the pixels are called.
    np.testing.assert_allclose(slide.spatial * expected, np.array([[100.0, 40.0]]) * um)


@pytest.mark.parametrize(("um", "image_scale"), [(0.1, 1.0), (8.5, 1.0), (0.1, 0.5), (0.1, 0.01)])
def test_beyond_four_times_it_is_refused(tmp_path, um, image_scale):
    with pytest.raises(DataError, match="beyond 4 times"):
        made(tmp_path, um, image_scale)


def made(folder, um, image_scale):
    Image.fromarray(np.zeros((60, 120, 3), dtype=np.uint8)).save(folder / "image.png")
    image = new_image(folder / "image.png", 10**6, um, image_scale)
    spots = ImageSpots(["a"], np.array([[100.0, 40.0]]), np.zeros((1, 2), dtype=np.int64), ())
    return slide_of_image(image, spots, TRAINED)[0]
