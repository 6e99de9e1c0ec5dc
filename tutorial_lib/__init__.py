"""An efficient Transformer diffusion model for handwritten digits, small enough to read in an afternoon."""

from .attention import LinearAttention, SoftmaxAttention, attention_matrix, linear_attention
from .checkpoints import load_checkpoint, load_model, load_pretrained, pick_device, save_checkpoint, save_model
from .data import load_images
from .denoiser import EfficientTransformerBlock, EfficientTransformerDenoiser
from .editing import KnownPixels, edit
from .evaluation import class_agreement, diversity, frechet_distance, nearest_training_images
from .judge import DigitJudge
from .noising import GaussianMixture, IdealDenoiser, NoiseSchedule
from .patches import PatchEmbedding, patchify, unpatchify
from .sampling import GuidedDenoiser, ddim, ddpm, dpmpp_2m, heun, initial_noise, sample, sample_loop
from .training import EMA, TrainConfig, diffusion_loss, train

__version__ = "0.1.0"

__all__ = [name for name in dir() if not name.startswith("_")]
