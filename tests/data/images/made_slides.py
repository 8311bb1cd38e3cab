"""Small slides that tests write."""

import numpy as np
import tifffile
from PIL import Image

APERIO = "Aperio Image Library v11.2.1\r\n{0}x{1} [0,0 {0}x{1}] (64x64) JPEG/RGB Q=70|AppMag = 40"


def smooth(height, width, seed=0):
    """Colours that change over tens of pixels, so that lossy compression keeps them."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def halved(pixels):
    """Copy reduced by 2, without the pixels that fill none of it."""
    height, width = (side // 2 * 2 for side in pixels.shape[:2])
    blocks = pixels[:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
    return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)


def pyramid(pixels, levels):
    copies = [pixels]
    for _ in range(levels - 1):
        copies.append(halved(copies[-1]))
    return copies


def write_svs(path, pixels, *, levels=3, mpp="0.2520", compression="jpeg", bigtiff=False):
    """A slide in the layout of Aperio: baseline, thumbnail, levels; all described alike."""
    height, width = pixels.shape[:2]
    text = APERIO.format(width, height) + (f"|MPP = {mpp}" if mpp else "")
    copies = pyramid(pixels, levels)
    lossy = {"compressionargs": {"level": 95}} if compression == "jpeg" else {}
    shared = {"photometric": "rgb", "metadata": None, "description": text, "software": False}
    tiled = {**shared, "tile": (64, 64), "compression": compression, **lossy}
    with tifffile.TiffWriter(path, bigtiff=bigtiff) as writer:
        writer.write(copies[0], **tiled)
        writer.write(copies[-1][::2, ::2], **shared)
        for copy in copies[1:]:
            writer.write(copy, **tiled)
    return copies


def write_bif(path, pixels):
    """A slide that tells of itself what those of Ventana tell."""
    xmp = b'<Metadata><iScan Magnification="40" ScanRes="0.2325"></iScan></Metadata>'
    tifffile.imwrite(
        path,
        pixels,
        photometric="rgb",
        tile=(16, 16),
        metadata=None,
        software="ScanOutputManager 1.1.0.15854",
        description="level=0 mag=40 quality=90",
        extratags=[(700, 1, len(xmp), xmp, True)],
    )


def tissue_like(height, width, *, left, top, right, bottom, seed=0):
    """A pink rectangle with a texture on nearly white glass."""
    rng = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 242, dtype=np.int64)
    pixels[top:bottom, left:right] = (200, 120, 180)
    pixels += rng.integers(-4, 5, (height, width, 1))
    return np.clip(pixels, 0, 255).astype(np.uint8)
