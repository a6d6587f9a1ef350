"""Everything that an update of the tokenizer changes, how it starts, and how it survives a kill.

    <directory>/state.json                    step, seconds, architecture, and which file of tensors belongs to them
    <directory>/step_00005000.safetensors     weights, averaged weights, Adam's moments, use of the codebook

Knows nothing of images and of the loop.
"""

import json
import logging
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from elm_dist.checkpoint.tokenizer import architecture, describe_differences, replace_tensors
from elm_dist.config import Config
from elm_dist.errors import TokenizerError
from elm_dist.files import replace_text
from elm_dist.parallel.replicas import Replicas
from elm_dist.randomness import derive_seed
from elm_dist.tokenizers.build import Tokenizer, build_tokenizer
from elm_dist.tokenizers.discriminator import PatchDiscriminator
from elm_dist.tokenizers.perceptual import PerceptualLoss, build_perceptual

log = logging.getLogger(__name__)


@dataclass
class Critic:
    """The discriminator while it is trained."""

    net: PatchDiscriminator
    optimizer: torch.optim.Adam


@dataclass
class TokenizerState:
    tokenizer: Tokenizer
    average: Tokenizer  # exponential moving average of the weights: the tokenizer that is kept in the end
    optimizer: torch.optim.Adam
    unused: Tensor  # (codebook_size,), int64: updates since each entry of the codebook was used; empty for a BAE
    critic: Critic | None
    perceptual: PerceptualLoss | None  # never changes
    step: int = 0  # updates done
    seconds: float = 0.0  # of updates, over all runs that took part


def build_state(config: Config, device: torch.device, replicas: Replicas) -> TokenizerState:
    """Return the state before the first update; its weights follow from the seed alone.

    Raises TokenizerError if the weights of the perceptual loss are not there.
    """
    perceptual = build_perceptual(config.tokenizer_training)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.run.seed, "tokenizer weights"))
        tokenizer = build_tokenizer(config.tokenizer).to(device)
        is_judged = config.tokenizer_training.adversarial_weight > 0
        discriminator = PatchDiscriminator(replicas.average).to(device) if is_judged else None
    return TokenizerState(
        tokenizer=tokenizer,
        average=deepcopy(tokenizer).eval().requires_grad_(False),
        optimizer=torch.optim.Adam(tokenizer.parameters()),
        unused=torch.zeros(config.tokenizer.codebook_size, dtype=torch.int64, device=device),
        critic=Critic(discriminator, torch.optim.Adam(discriminator.parameters())) if discriminator else None,
        perceptual=perceptual.to(device) if perceptual else None,
    )


def save_state(directory: Path, state: TokenizerState) -> None:
    """Write the state; whenever the process is killed, this state or the one before it is there."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {f"average.{name}": tensor for name, tensor in state.average.state_dict().items()}
    tensors |= _trained("tokenizer", state.tokenizer, state.optimizer)
    if state.critic:
        tensors |= _trained("discriminator", state.critic.net, state.critic.optimizer)
    tensors["unused"] = state.unused
    file = f"step_{state.step:08d}.safetensors"
    replace_tensors(directory / file, tensors)
    facts = {
        "step": state.step,
        "seconds": state.seconds,
        "tensors": file,
        "tokenizer": architecture(state.tokenizer.config),
    }
    replace_text(directory / "state.json", json.dumps(facts, indent=2) + "\n")
    for path in directory.glob("step_*.safetensors"):
        if path.name != file:
            path.unlink()


def load_state(directory: Path, state: TokenizerState) -> None:
    """Bring a fresh `state` to where the run in `directory` stopped; leave it as it is if there is none.

    Raises TokenizerError if that run trains another architecture, or if its files are damaged.
    """
    if not (directory / "state.json").is_file():
        return
    try:
        facts = json.loads((directory / "state.json").read_text(encoding="utf-8"))
        stored, step, seconds = facts["tokenizer"], int(facts["step"]), float(facts["seconds"])
        tensors = load_file(directory / facts["tensors"])
    except (OSError, TypeError, ValueError, KeyError, SafetensorError) as error:
        raise TokenizerError(
            f"{directory}: the training cannot be resumed, a file is missing or damaged "
            f"({' '.join(str(error).split())}); delete this folder to begin anew"
        ) from None
    if differences := describe_differences(stored, architecture(state.tokenizer.config)):
        raise TokenizerError(
            f"{directory}: the training to resume is of another tokenizer: {differences}; change the section "
            "`tokenizer:` back, or delete this folder to begin anew"
        )
    state.step, state.seconds = step, seconds
    state.average.load_state_dict(_under("average.", tensors))
    state.unused.copy_(tensors["unused"])
    _restore("tokenizer", state.tokenizer, state.optimizer, tensors)
    is_stored = any(name.startswith("discriminator.") for name in tensors)  # one that is new starts from its seed
    if state.critic and is_stored:
        _restore("discriminator", state.critic.net, state.critic.optimizer, tensors)
    log.info("%s: resuming at step %d", directory, step)


def _trained(prefix: str, net: nn.Module, optimizer: torch.optim.Adam) -> dict[str, Tensor]:
    """Return the weights of `net` and what Adam remembers of each."""
    tensors = {f"{prefix}.{name}": tensor for name, tensor in net.state_dict().items()}
    for name, weight in net.named_parameters():
        tensors |= {f"adam.{prefix}.{name}.{key}": tensor for key, tensor in optimizer.state[weight].items()}
    return tensors


def _restore(prefix: str, net: nn.Module, optimizer: torch.optim.Adam, tensors: dict[str, Tensor]) -> None:
    net.load_state_dict(_under(f"{prefix}.", tensors))
    names = [name for name, _ in net.named_parameters()]  # the optimizer knows weights by their number
    moments = {number: _under(f"adam.{prefix}.{name}.", tensors) for number, name in enumerate(names)}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
