"""Everything that an update of the tokenizer changes, how it starts, and how it survives a kill.

    <directory>/state.json                    step, seconds, architecture, and which file of tensors belongs to them
    <directory>/step_00005000.safetensors     weights, averaged weights and Adam's moments

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
from torch import Tensor

from elm_dist.checkpoint.tokenizer import architecture, describe_differences, replace_tensors
from elm_dist.config import Config
from elm_dist.errors import TokenizerError
from elm_dist.files import replace_text
from elm_dist.randomness import derive_seed
from elm_dist.tokenizers.bae import BAE

log = logging.getLogger(__name__)


@dataclass
class TokenizerState:
    bae: BAE
    average: BAE  # exponential moving average of the weights: the tokenizer that is kept in the end
    optimizer: torch.optim.Adam
    step: int = 0  # updates done
    seconds: float = 0.0  # of updates, over all runs that took part


def build_state(config: Config, device: torch.device) -> TokenizerState:
    """Return the state before the first update; its weights follow from the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.run.seed, "tokenizer weights"))
        bae = BAE(config.tokenizer).to(device)
    average = deepcopy(bae).eval().requires_grad_(False)
    return TokenizerState(bae, average, torch.optim.Adam(bae.parameters()))


def save_state(directory: Path, state: TokenizerState) -> None:
    """Write the state; whenever the process is killed, this state or the one before it is there."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {f"bae.{name}": tensor for name, tensor in state.bae.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in state.average.state_dict().items()}
    for name, weight in state.bae.named_parameters():
        tensors |= {f"adam.{name}.{key}": tensor for key, tensor in state.optimizer.state[weight].items()}
    file = f"step_{state.step:08d}.safetensors"
    replace_tensors(directory / file, tensors)
    facts = {
        "step": state.step,
        "seconds": state.seconds,
        "tensors": file,
        "tokenizer": architecture(state.bae.config),
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
    if differences := describe_differences(stored, architecture(state.bae.config)):
        raise TokenizerError(
            f"{directory}: the training to resume is of another tokenizer: {differences}; change the section "
            "`tokenizer:` back, or delete this folder to begin anew"
        )
    state.step, state.seconds = step, seconds
    state.bae.load_state_dict(_under("bae.", tensors))
    state.average.load_state_dict(_under("average.", tensors))
    names = [name for name, _ in state.bae.named_parameters()]  # the optimizer knows weights by their number
    moments = {number: _under(f"adam.{name}.", tensors) for number, name in enumerate(names)}
    state.optimizer.load_state_dict({**state.optimizer.state_dict(), "state": moments})
    log.info("%s: resuming at step %d", directory, step)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
