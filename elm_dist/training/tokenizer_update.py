"""One update of the tokenizer and, once its time has come, of the discriminator. Knows nothing of files and of reports.

Every draw follows from (seed, step, image), and every mean is one over the images of all processes.
"""

import math
import time

import torch
from torch import Tensor

from elm_dist.config import Config
from elm_dist.errors import TrainingError
from elm_dist.parallel.replicas import Replicas
from elm_dist.randomness import derive_seed
from elm_dist.tokenizers.discriminator import PatchDiscriminator, adaptive_weight, diff_augment, hinge_loss
from elm_dist.tokenizers.draws import Draws
from elm_dist.tokenizers.losses import codebook_parts, reconstruction_parts
from elm_dist.tokenizers.vqgan import VQGAN
from elm_dist.training.optimizer import scheduled_learning_rate
from elm_dist.training.tokenizer_codebook import revive_entries
from elm_dist.training.tokenizer_state import TokenizerState


def update(state: TokenizerState, images: Tensor, config: Config, replicas: Replicas) -> dict[str, float]:
    """Do one update on this process's images (share, 3, H, W) in [0, 1]; return the "loss" and its named parts.

    Raises TrainingError, before any weight changes, if the loss is not finite.
    """
    began, training = time.monotonic(), config.tokenizer_training
    draws = Draws(config.run.seed, state.step, replicas.share(training.batch_size), images.device)
    critic = state.critic if state.step >= training.adversarial_from else None
    with torch.autocast(images.device.type, torch.bfloat16, enabled=config.parallel.precision == "bf16"):
        reconstruction, quantized = state.tokenizer(images, draws)
        reconstruction = reconstruction.float()
        parts = reconstruction_parts(reconstruction, images, training, state.perceptual)
        if critic:
            judged = -_judge_unmoved(critic.net, reconstruction, config, draws).mean()
            parts["adversarial"] = judged * adaptive_weight(
                *(_total(parts), judged, state.tokenizer.decoder[-1].get_parameter("weight")),
                *(training.adversarial_weight, replicas.average),
            )
        parts |= codebook_parts(quantized, training.commitment_weight)
    loss = _total(parts)
    if not math.isfinite(replicas.average(loss.detach()).item()):
        raise TrainingError(
            f"step {state.step}: the tokenizer's loss is no longer finite; lower tokenizer_training.learning_rate, now "
            f"{training.learning_rate}, and run again to go on from the last checkpoint"
        )
    _step(state.optimizer, loss, state.step, config, replicas)
    with torch.no_grad():
        for average, weight in zip(state.average.parameters(), state.tokenizer.parameters(), strict=True):
            average.lerp_(weight, 1 - training.ema_decay)
    if isinstance(state.tokenizer, VQGAN) and isinstance(state.average, VQGAN):
        seed = derive_seed(config.run.seed, "codebook", state.step)
        pair = [state.tokenizer, state.average]
        revive_entries(pair, state.unused, quantized, training.revive_after, seed, replicas)
    if critic:
        with torch.autocast(images.device.type, torch.bfloat16, enabled=config.parallel.precision == "bf16"):
            real, fake = (_judge(critic.net, each, config, draws) for each in (images, reconstruction.detach()))
        parts["discriminator"] = hinge_loss(real, fake)
        _step(critic.optimizer, parts["discriminator"], state.step, config, replicas)
    state.step += 1
    state.seconds += time.monotonic() - began
    parts = {"loss": loss, **parts}
    means = replicas.average(torch.stack([part.detach() for part in parts.values()]))
    return dict(zip(parts, means.tolist(), strict=True))


def learning_rate(step: int, config: Config) -> float:
    training = config.tokenizer_training
    return scheduled_learning_rate(
        step, training.total_steps, training.learning_rate, training.warmup_steps, training.final_learning_rate_share
    )


def _judge_unmoved(discriminator: PatchDiscriminator, images: Tensor, config: Config, draws: Draws) -> Tensor:
    """Return the discriminator's logits for images that learn from them while it does not."""
    discriminator.requires_grad_(False)
    logits = _judge(discriminator, images, config, draws)
    discriminator.requires_grad_(True)
    return logits


def _total(parts: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(parts.values())).sum()


def _judge(discriminator: PatchDiscriminator, images: Tensor, config: Config, draws: Draws) -> Tensor:
    if config.tokenizer_training.diff_augment:
        images = diff_augment(images, draws)
    return discriminator(images).float()


def _step(optimizer: torch.optim.Optimizer, loss: Tensor, step: int, config: Config, replicas: Replicas) -> None:
    optimizer.zero_grad()
    loss.backward()
    for group in optimizer.param_groups:
        replicas.average_gradients(group["params"])
        group["lr"] = learning_rate(step, config)
    optimizer.step()
