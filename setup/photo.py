"""Run with the environment's Python, which has the picture libraries: `photo.py VERB FILE`.

`sample FILE` writes the public-domain portrait that scikit-image ships. `check FILE` says whether
FILE is a picture; exit code 1 and one line when it is not.
"""

import sys


def sample(path: str) -> None:
    from PIL import Image
    from skimage import data

    Image.fromarray(data.astronaut()).save(path)


def check(path: str) -> None:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            picture.load()
            sys.stdout.write(f"{picture.width} x {picture.height} {picture.format}\n")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        kind = "no picture format is recognised" if isinstance(
            error, UnidentifiedImageError
        ) else str(error)  # fmt: skip
        sys.exit(kind)


if __name__ == "__main__":
    del sys.path[0]
    {"sample": sample, "check": check}[sys.argv[1]](sys.argv[2])
