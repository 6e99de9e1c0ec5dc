"""The judge: a small convolutional network, trained on real pictures, that names their class. Scores build on it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from torch import Tensor, nn

from .checkpoints import ASSETS, rebuild
from .validate import check_choice, check_int, check_tensor

JUDGE_FORMAT = "tutorial_lib.DigitJudge/1"
JUDGES = {  # by the data that each has learnt
    "mnist": ASSETS / "digit_judge.safetensors",
    "mnist_28": ASSETS / "mnist_28_judge.safetensors",
    "fashion_mnist_28": ASSETS / "fashion_mnist_28_judge.safetensors",
}


class DigitJudge(nn.Module):
    """A small convolutional network that reads digits; its last hidden layer measures how alike two sets are.

    images: (B, 1, size, size), values in [-1, 1], size 16 or 28. `load_judge()` gives a trained one, `DigitJudge()` a
    fresh one, which may as well learn ten other classes.
    """

    def __init__(self, width: int = 24, features: int = 64, image_size: int = 16) -> None:
        super().__init__()
        check_int(width, "width")
        check_int(features, "features")
        self.image_size = check_int(image_size, "image_size", 16, 28)

        def convolve(inputs: int, outputs: int) -> list[nn.Module]:
            return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

        self.trunk = nn.Sequential(
            *convolve(1, width),
            *convolve(width, width),
            nn.MaxPool2d(2),
            *convolve(width, 2 * width),
            *convolve(2 * width, 2 * width),
            nn.AdaptiveMaxPool2d(4),  # 4 x 4 places, whatever the size
            nn.Flatten(),  # keeps the places: averaging over them would make the distance blind to broken strokes
            nn.Linear(2 * width * 16, features, bias=False),
            nn.BatchNorm1d(features),  # centres each feature, so that ReLU cannot leave one dead
            nn.ReLU(),
        )
        self.head = nn.Linear(features, 10)

    def features(self, images: Tensor) -> Tensor:
        """Returns the last hidden layer, (B, F), all >= 0. Raises ValueError for images of another shape."""
        size = self.image_size
        check_tensor(images, "images", ("B", 1, size, size), finite=False)
        return self.trunk(images)  # (B, F)

    def forward(self, images: Tensor) -> Tensor:
        """Returns one logit for each class, (B, 10). Raises ValueError for images of another shape."""
        return self.head(self.features(images))  # (B, 10)

    @classmethod
    def load(cls, path: str | Path | None = None) -> DigitJudge:
        """Returns a trained judge in eval mode: the shipped one, or the one in `path`.

        Raises FileNotFoundError if there is no such file, ValueError if it does not hold a digit judge's weights.
        """
        return rebuild(cls, path or JUDGES["mnist"], JUDGE_FORMAT)


@lru_cache
def load_judge(name: str = "mnist") -> DigitJudge:
    """Returns a shipped judge, read from its file once: "mnist" (16 pixels), "mnist_28" or "fashion_mnist_28".

    Errors as in `DigitJudge.load`; ValueError for another name.
    """
    check_choice(name, "name", JUDGES)
    return DigitJudge.load(JUDGES[name])
