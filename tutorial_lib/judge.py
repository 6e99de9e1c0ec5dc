"""The judge: a small convolutional network, trained on real digits, that reads 16x16 pictures. Scores build on it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from torch import Tensor, nn

from .checkpoints import ASSETS, rebuild
from .validate import check_int, check_tensor

JUDGE_FORMAT = "tutorial_lib.DigitJudge/1"


class DigitJudge(nn.Module):
    """A small convolutional network that reads 16x16 digits; its last hidden layer measures how alike two sets are.

    images: (B, 1, 16, 16), values in [-1, 1]. `DigitJudge.load()` gives the trained one, `DigitJudge()` a fresh one.
    """

    def __init__(self, width: int = 24, features: int = 64) -> None:
        super().__init__()
        check_int(width, "width")
        check_int(features, "features")

        def convolve(inputs: int, outputs: int) -> list[nn.Module]:
            return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

        self.trunk = nn.Sequential(
            *convolve(1, width),
            *convolve(width, width),
            nn.MaxPool2d(2),
            *convolve(width, 2 * width),
            *convolve(2 * width, 2 * width),
            nn.MaxPool2d(2),
            nn.Flatten(),  # keeps the places: averaging over them would make the distance blind to broken strokes
            nn.Linear(2 * width * 16, features, bias=False),
            nn.BatchNorm1d(features),  # centres each feature, so that ReLU cannot leave one dead
            nn.ReLU(),
        )
        self.head = nn.Linear(features, 10)

    def features(self, images: Tensor) -> Tensor:
        """Returns the last hidden layer, (B, F), all >= 0. Raises ValueError unless images are (B, 1, 16, 16)."""
        check_tensor(images, "images", ("B", 1, 16, 16), finite=False)
        return self.trunk(images)  # (B, F)

    def forward(self, images: Tensor) -> Tensor:
        """Returns one logit for each digit, (B, 10). Raises ValueError unless images are (B, 1, 16, 16)."""
        return self.head(self.features(images))  # (B, 10)

    @classmethod
    def load(cls, path: str | Path | None = None) -> DigitJudge:
        """Returns a trained judge in eval mode: the shipped one, or the one in `path`.

        Raises FileNotFoundError if there is no such file, ValueError if it does not hold a digit judge's weights.
        """
        return rebuild(cls, path or ASSETS / "digit_judge.safetensors", JUDGE_FORMAT)


@lru_cache(maxsize=1)
def load_judge() -> DigitJudge:
    """Returns the shipped judge, read from its file once. Errors as in `DigitJudge.load`."""
    return DigitJudge.load()
