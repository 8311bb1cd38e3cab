"""A stored run as a bundle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.devices import choose_device
from bench.errors import BenchError, DataError
from bench.prediction.bundle import SUFFIX
from bench.prediction.bundle_writing import write_bundle
from bench.prediction.places import check_place, system_reason
from bench.prediction.predicting import PredictionRequest, context_of, opened_model


def export_bundle(
    request: PredictionRequest, path: Path, say: Callable[[str], None] = lambda text: None
) -> None:
    """Write the model of a request into a bundle.

    Parameters
    ----------
    request
        Model; its image is not looked at.
    path
        File that is written.
    say
        Told what is being done.

    Raises
    ------
    BenchError
        As :func:`bench.prediction.predicting.predict_image` and :func:`write_bundle`; or the file
        cannot be written.
    """
    if path.suffix != SUFFIX:
        raise BenchError(f"{path}: the name must end in {SUFFIX} or .h5ad")
    check_place("--out", path)
    with opened_model(request, say) as (model, images):
        say("describing the training images")
        first = model.fits[0]
        config = model.kind.Config.model_validate(first.config)
        context = context_of(request, model, first, choose_device(request.device))
        reference = images.reference(model, config, context)
        try:
            write_bundle(path, model, images, reference)
        except OSError as error:
            raise DataError(f"{path}: cannot be written ({system_reason(error)})") from error
