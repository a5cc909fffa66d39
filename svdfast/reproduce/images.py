# SPDX-License-Identifier: BSD-3-Clause
"""The paper's section 3.2.2: a truncated SVD of a picture needs less memory, and removes noise.

The picture comes with scikit-learn and is converted to grey. Normal noise is added for the second
part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from svdfast.model.svd import truncated_svd
from svdfast.plots.figures import STYLES, new_figure
from svdfast.reproduce._experiment import Experiment, Job, Plan, Runs, of_form
from svdfast.reproduce._tables import spread, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Image = NDArray[np.float64]

RANKS = (5, 10, 20, 40, 80, 160, 320)
SHOWN = (5, 20, 80)
NOISES = (0.1, 0.2)  # standard deviations; a picture's values go from 0 to 1
SHOWN_NOISE = 0.2


def picture() -> Image:
    """The picture (427, 640), from 0 (black) to 1."""
    try:
        import PIL  # noqa: F401  scikit-learn reads pictures with it
        from sklearn.datasets import load_sample_image
    except ImportError:
        raise ImportError('the pictures need scikit-learn and matplotlib: pip install "svdfast[demo,plot]"') from None
    colours = load_sample_image("china.jpg").astype(np.float64) / 255
    # Luma, ITU-R BT.601.
    grey: Image = colours @ np.array([0.299, 0.587, 0.114])
    return grey


def with_noise(image: Image, deviation: float, seed: int) -> Image:
    return image + deviation * np.random.default_rng(seed).standard_normal(image.shape)


def kept(image: Image, ranks: Sequence[int]) -> list[Image]:
    """The nearest image of each rank. Ranks must ascend."""
    U, s, Vt = truncated_svd(image, ranks[-1])
    return [(U[:, :rank] * s[:rank]) @ Vt[:rank] for rank in ranks]


def psnr(image: Image, clean: Image) -> float:
    """Peak signal-to-noise ratio in dB: 10·log₁₀(1/mean squared error)."""
    return -10 * math.log10(float(np.mean((image - clean) ** 2)))


def jobs(plan: Plan, _: Runs) -> list[Job]:
    wanted = [("compress", 0, 0.0)]
    wanted += [(f"noise {noise}", seed, noise) for seed in plan.seeds for noise in NOISES]
    return [Job(form, seed, {"ranks": list(RANKS), "noise": noise}) for form, seed, noise in wanted]


def run(settings: dict[str, Any], seed: int) -> dict[str, Any]:
    clean = picture()
    given = with_noise(clean, settings["noise"], seed)
    results = kept(given, settings["ranks"])
    return {
        "shape": clean.shape,
        "psnr_given": psnr(given, clean) if settings["noise"] else None,
        "psnr": [round(psnr(result, clean), 3) for result in results],
        "relative_error": [round(float(np.linalg.norm(result - clean) / np.linalg.norm(clean)), 5) for result in results],
    }


def tables(runs: Runs) -> list[tuple[str, str]]:
    (run,) = of_form(runs, "compress")
    n, m = run["shape"]
    compress = [
        [str(rank), f"{rank * (m + n + 1):,}", f"{m * n / (rank * (m + n + 1)):.2f}", f"{100 * error:.2f}", f"{ratio:.1f}"]
        for rank, error, ratio in zip(RANKS, run["relative_error"], run["psnr"], strict=True)
    ]
    noisy = {noise: of_form(runs, f"noise {noise}") for noise in NOISES}
    denoise = [["all", *(spread([run["psnr_given"] for run in of], 2) for of in noisy.values())]]
    for index, rank in enumerate(RANKS):
        denoise.append([str(rank), *(spread([run["psnr"][index] for run in of], 2) for of in noisy.values())])
    return [
        (
            f"A picture of {n} × {m} as l singular values and their vectors",
            table(["l", "numbers l·(m+n+1)", "m·n ÷ that", "relative error, %", "PSNR, dB"], compress),
        ),
        (
            "l values of the picture with noise kept: PSNR in dB against the one without, mean ± standard deviation over seeds",
            table(["l", *(f"noise {noise}" for noise in NOISES)], denoise),
        ),
    ]


def figures(runs: Runs) -> dict[str, Figure]:
    clean = picture()
    noisy = with_noise(clean, SHOWN_NOISE, 0)
    figure = new_figure(11, 4.6)
    for row, (title, image) in zip(
        figure.subplots(2, 1 + len(SHOWN)), (("as it is", clean), (f"noise {SHOWN_NOISE}", noisy)), strict=True
    ):
        for axes, rank, shown in zip(row, (None, *SHOWN), (image, *kept(image, SHOWN)), strict=True):
            axes.imshow(shown, cmap="gray", vmin=0, vmax=1)
            axes.set_axis_off()
            if rank is None:
                text = f"{title}: {image.size:,} numbers"
            else:
                text = f"l = {rank}: {rank * (sum(image.shape) + 1):,} numbers"
            if shown is not clean:
                text += f"\nPSNR {psnr(shown, clean):.1f} dB"
            axes.set_title(text, fontsize=9)
    curves = new_figure(5.5, 3.8)
    axes = curves.subplots()
    for index, form in enumerate(["compress", *(f"noise {noise}" for noise in NOISES)]):
        mean = np.mean([run["psnr"] for run in of_form(runs, form)], axis=0)
        label = "no noise" if form == "compress" else form
        axes.plot(RANKS, mean, marker="os^"[index], markersize=4, label=label, **STYLES[index])
    axes.set(xscale="log", xlabel="singular values kept, l", ylabel="PSNR against the clean picture, dB")
    axes.set_xticks(RANKS, [str(rank) for rank in RANKS])
    axes.minorticks_off()
    axes.legend()
    return {"images": figure, "images-psnr": curves}


EXPERIMENT = Experiment("images", "Pictures (section 3.2.2)", 5, 2, picture, (jobs,), run, tables, figures)
