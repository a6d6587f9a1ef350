"""What sampling in bf16 and with 8-bit weights changes: every next-code distribution of a trained run, against fp32.

    python benchmarks/sampling_quality.py RUN [--samples 256 --batch 32]

The model reads codes of the validation split and says at each position what comes next. Reported are the loss (bits per
code bit, as in training), the mean KL divergence of the fp32 distribution from the other (nats per sub-token), the
share of sub-tokens whose likeliest entry is the same, and that of those which are drawn the same from the same random
numbers.
"""

import argparse
import itertools
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from elm_dist.checkpoint.run_folder import choose_checkpoint, load_run_config
from elm_dist.codes.packing import unpack_subtokens
from elm_dist.config import Config
from elm_dist.data.payload import likeliest_codes
from elm_dist.data.shards import ShardReader, load_manifest
from elm_dist.model.elm import ELM, code_shape
from elm_dist.sampling.generate import pick
from elm_dist.sampling.painter import load_model_to_sample


def read_codes(config: Config, samples: int) -> tuple[Tensor, Tensor]:
    """Return the packed codes and the labels of the first validation samples, as many as there are."""
    manifest = load_manifest(config.data.shards)
    reader = ShardReader(config.data.shards, manifest, "validation")
    stored, labels = reader.read(np.arange(min(samples, len(reader))))
    return torch.from_numpy(likeliest_codes(stored, manifest)), torch.from_numpy(labels.astype(np.int64))


def measure(model: ELM, reference: ELM, config: Config, codes: Tensor, labels: Tensor) -> Tensor:
    """Return the sums of loss in bits, KL in nats, equal likeliest entries, equal draws, and the sub-tokens."""
    targets = unpack_subtokens(codes, code_shape(config.model, config.tokenizer.grid))
    expected = reference((codes, labels)).float()
    found = model((codes, labels)).float()
    exact, other = expected.double().log_softmax(dim=3), found.double().log_softmax(dim=3)
    losses = -other.gather(3, targets.unsqueeze(3)) / math.log(2)
    divergence = (exact.exp() * (exact - other)).sum(dim=3)
    numbers = torch.Generator().manual_seed(len(codes))
    draws = torch.rand((*targets.shape, config.model.subtoken_bits), dtype=torch.float64, generator=numbers)
    equal = (expected.argmax(dim=3) == found.argmax(dim=3)).sum()
    drawn = (pick(expected, draws, config.sampling) == pick(found, draws, config.sampling)).sum()
    return torch.stack([losses.sum(), divergence.sum(), equal, drawn, torch.tensor(targets.numel())]).double()


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    for name, default in {"samples": 256, "batch": 32}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    config, checkpoint = load_run_config(options.run), choose_checkpoint(options.run, None)
    codes, labels = read_codes(config, options.samples)
    batches = list(zip(codes.split(options.batch), labels.split(options.batch), strict=True))
    print(f"{len(codes)} validation samples, step {checkpoint.step}")
    print(f"{'':<14}{'bits/code bit':>14}{'KL, nats':>12}{'same likeliest':>16}{'same draw':>12}")
    reference = load_model_to_sample(checkpoint, config)
    for precision, int8 in itertools.product(("fp32", "bf16"), (False, True)):
        sampling = config.sampling.model_copy(update={"precision": precision, "weights_int8": int8})
        model = load_model_to_sample(checkpoint, config.model_copy(update={"sampling": sampling}))
        sums = sum(measure(model, reference, config, *batch) for batch in batches)
        loss, divergence, equal, drawn = (sums[:4] / sums[4]).tolist()
        name = precision + (", int8" if int8 else "")
        bits = loss / config.model.subtoken_bits
        print(f"{name:<14}{bits:>14.5f}{divergence:>12.2e}{100 * equal:>15.2f}%{100 * drawn:>11.2f}%")


if __name__ == "__main__":
    main()
