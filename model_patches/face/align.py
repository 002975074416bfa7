"""Five face points -> aligned crops. Both crops are cut from the same five points.

Templates and warps are those of insightface (ArcFace, 112) and facexlib (FFHQ, 512), the ones
that the recogniser and PuLID were trained on.
"""

from __future__ import annotations

import numpy as np

from .packages import need

ARCFACE_112 = np.array(
    [
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ]
)
FFHQ_512 = np.array(
    [
        (192.98138, 239.94708),
        (318.90277, 240.1936),
        (256.63416, 314.01935),
        (201.26117, 371.41043),
        (313.08905, 371.15118),
    ]
)
FFHQ_BORDER = (132, 133, 135)
"""RGB outside of the photo; facexlib writes it as BGR (135, 133, 132)."""
MINIMUM_SCALE = 0.25


def similarity(points: np.ndarray, template: np.ndarray) -> np.ndarray:
    """Least-squares rotation, uniform scale and shift (no mirroring), Umeyama 1991.

    points, template: (N, 2). Returns (2, 3) float64 taking `points` to `template`.
    Raises ValueError when the points coincide or are not finite.
    """
    source = np.asarray(points, np.float64)
    target = np.asarray(template, np.float64)
    _check(source)
    from_mean, to_mean = source.mean(0), target.mean(0)
    centred = source - from_mean
    u, s, vt = np.linalg.svd((target - to_mean).T @ centred)
    sign = np.array([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    matrix = (u * sign) @ vt * ((s * sign).sum() / (centred**2).sum())
    return np.hstack([matrix, (to_mean - matrix @ from_mean)[:, None]])


def robust_similarity(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """FFHQ fit by least median of squares: drops a point that disagrees with the others.

    Profiles and covered faces have such points; plain least squares would then shift the crop by
    tens of pixels. Returns the (2, 3) matrix and the (5,) bool inliers.
    """
    cv2 = need("cv2")
    source = np.asarray(points, np.float64)
    _check(source)
    matrix, inliers = cv2.estimateAffinePartial2D(source, FFHQ_512, method=cv2.LMEDS)
    if matrix is None:
        raise ValueError(f"no aligned crop can be made from the face points {source.tolist()}")
    return matrix, inliers[:, 0].astype(bool)


def arcface_crop(rgb: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (112, 112, 3) uint8, black outside of the photo."""
    return warp(rgb, similarity(points, ARCFACE_112), 112, (0, 0, 0))


def ffhq_crop(rgb: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (512, 512, 3) uint8, grey outside of the photo."""
    return warp(rgb, robust_similarity(points)[0], 512, FFHQ_BORDER)


def warp(
    rgb: np.ndarray, matrix: np.ndarray, size: int, border: tuple[int, int, int]
) -> np.ndarray:
    """Bilinear warp to (size, size, 3), as the references do it.

    Only where the face is so large that less than one pixel in four would be read per axis is the
    photo first halved by area averaging: bilinear reading alone would then alias.
    """
    cv2 = need("cv2")
    scale = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    while scale < MINIMUM_SCALE and min(rgb.shape[:2]) > 1:
        height, width = (rgb.shape[0] + 1) // 2, (rgb.shape[1] + 1) // 2
        grown = np.diag([rgb.shape[1] / width, rgb.shape[0] / height])
        # Pixel centres: x_large = (x_small + 0.5) * factor - 0.5.
        shift = (grown.diagonal() - 1) / 2
        matrix = np.hstack(
            [matrix[:, :2] @ grown, matrix[:, :2] @ shift[:, None] + matrix[:, 2:]],
        )
        rgb = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA)
        scale *= 2
    return cv2.warpAffine(
        rgb,
        matrix,
        (size, size),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=border,
    )


def _check(points: np.ndarray) -> None:
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 2:
        raise ValueError(f"expected (5, 2) face points, got shape {points.shape}")
    if not np.isfinite(points).all() or np.ptp(points, axis=0).max() < 1e-6:
        raise ValueError(
            f"the face points coincide or are not finite: {points.tolist()}; use another photo or "
            "another detector"
        )
