"""One update of the tokenizer and, once its time has come, of the discriminator. Knows nothing of files and of reports.

Every draw follows from (seed, step).
"""

import math
import time

import torch
from torch import Tensor

from elm_dist.config import Config
from elm_dist.errors import TrainingError
from elm_dist.randomness import derive_seed
from elm_dist.tokenizers.discriminator import PatchDiscriminator, adaptive_weight, diff_augment, hinge_loss
from elm_dist.tokenizers.losses import codebook_parts, reconstruction_parts
from elm_dist.tokenizers.vqgan import VQGAN
from elm_dist.training.optimizer import scheduled_learning_rate
from elm_dist.training.tokenizer_codebook import revive_entries
from elm_dist.training.tokenizer_state import TokenizerState


def update(state: TokenizerState, images: Tensor, config: Config) -> dict[str, float]:
    """Do one update on images (batch, 3, S, S) in [0, 1]; return the "loss" and its named parts.

    Raises TrainingError, before any weight changes, if the loss is not finite.
    """
    began, training = time.monotonic(), config.tokenizer_training
    draws = torch.Generator(images.device).manual_seed(derive_seed(config.run.seed, "tokenizer bits", state.step))
    critic = state.critic if state.step >= training.adversarial_from else None
    with torch.autocast(images.device.type, torch.bfloat16, enabled=config.parallel.precision == "bf16"):
        reconstruction, quantized = state.tokenizer(images, draws)
        reconstruction = reconstruction.float()
        parts = reconstruction_parts(reconstruction, images, training, state.perceptual)
        if critic:
            parts["adversarial"] = _adversarial_part(critic.net, state, reconstruction, _total(parts), config, draws)
        parts |= codebook_parts(quantized, training.commitment_weight)
    loss = _total(parts)
    if not math.isfinite(loss.item()):
        raise TrainingError(
            f"step {state.step}: the tokenizer's loss is no longer finite; lower tokenizer_training.learning_rate, now "
            f"{training.learning_rate}, and run again to go on from the last checkpoint"
        )
    _step(state.optimizer, loss, state.step, config)
    with torch.no_grad():
        for average, weight in zip(state.average.parameters(), state.tokenizer.parameters(), strict=True):
            average.lerp_(weight, 1 - training.ema_decay)
    if isinstance(state.tokenizer, VQGAN) and isinstance(state.average, VQGAN):
        revive_entries([state.tokenizer, state.average], state.unused, quantized, training.revive_after, draws)
    if critic:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=config.parallel.precision == "bf16"):
            real, fake = (_judge(critic.net, each, config, draws) for each in (images, reconstruction.detach()))
        parts["discriminator"] = hinge_loss(real, fake)
        _step(critic.optimizer, parts["discriminator"], state.step, config)
    state.step += 1
    state.seconds += time.monotonic() - began
    return {name: value.item() for name, value in {"loss": loss, **parts}.items()}


def learning_rate(step: int, config: Config) -> float:
    training = config.tokenizer_training
    return scheduled_learning_rate(
        step, training.total_steps, training.learning_rate, training.warmup_steps, training.final_learning_rate_share
    )


def _adversarial_part(
    discriminator: PatchDiscriminator,
    state: TokenizerState,
    reconstruction: Tensor,
    wanted: Tensor,
    config: Config,
    draws: torch.Generator,
) -> Tensor:
    """Return what makes reconstructions look like photographs to the discriminator, which does not learn from it."""
    discriminator.requires_grad_(False)
    adversarial = -_judge(discriminator, reconstruction, config, draws).mean()
    discriminator.requires_grad_(True)
    last_weight = state.tokenizer.decoder[-1].get_parameter("weight")
    largest = config.tokenizer_training.adversarial_weight
    return adaptive_weight(wanted, adversarial, last_weight, largest) * adversarial


def _total(parts: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(parts.values())).sum()


def _judge(discriminator: PatchDiscriminator, images: Tensor, config: Config, draws: torch.Generator) -> Tensor:
    if config.tokenizer_training.diff_augment:
        images = diff_augment(images, draws)
    return discriminator(images).float()


def _step(optimizer: torch.optim.Optimizer, loss: Tensor, step: int, config: Config) -> None:
    optimizer.zero_grad()
    loss.backward()
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, config)
    optimizer.step()
