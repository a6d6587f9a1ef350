"""Updates tokenizers as one of several processes and saves their states: tokenizer_worker.py OUT STEPS TILES."""

import sys
from pathlib import Path

import torch

from elm_dist.config_file import load_config
from elm_dist.parallel.environment import process_environment
from elm_dist.parallel.replicas import Replicas, join_replicas
from elm_dist.training.tokenizer_state import build_state, save_state
from elm_dist.training.tokenizer_update import update

SMALL = [
    "tokenizer.base_channels=32",
    "tokenizer.embedding_channels=32",
    "tokenizer_training.batch_size=4",
    "tokenizer_training.adversarial_weight=0.5",
    "tokenizer_training.adversarial_from=0",
    "tokenizer_training.diff_augment=true",
    "parallel.device=cpu",
    "parallel.precision=fp32",
]
VQGAN = ["kind=vqgan", "codebook_size=256", "codebook_dim=4", "code_bits=8"]
CASES = {
    "bae": SMALL,
    "vqgan": [
        *SMALL,
        *(f"tokenizer.{setting}" for setting in VQGAN),
        "model.subtokens=1",
        "model.subtoken_bits=8",
        "tokenizer_training.revive_after=1",
    ],
}


def main(out: Path, steps: int, tiles: Path, replicas: Replicas) -> None:
    images = torch.load(tiles, weights_only=True)
    mine = images[list(replicas.share(len(images)))]
    for name, settings in CASES.items():
        config = load_config("configs/demo.yaml", settings)
        state = build_state(config, torch.device("cpu"), replicas)
        for _ in range(steps):
            parts = update(state, mine, config, replicas)
        assert {"l1", "adversarial", "discriminator"} <= parts.keys()
        save_state(out / name / str(replicas.rank), state)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with join_replicas(process_environment(), "cpu", 1) as everybody:
        main(Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), everybody)
    threads = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    assert not [name for name in threads if "gloo" in name], "a group that outlives its end can abort the process"
