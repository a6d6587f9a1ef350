"""How fast codes are drawn: our sampler against Hugging Face transformers with what `elm export` makes for it.

    python benchmarks/sampling_huggingface.py [--hidden 256 --layers 4 --grid 16 --batch 4 --rounds 5]

One thread, fp32, CPU time; the model is drawn at random. The two of a pair take turns in one run; reported are the
medians, and the median of the rounds' ratios. All draw greedy codes with constant guidance of 4, the only one that
`generate` has. That draws a lone sub-token: with one of 10 bits it is compared as it is, with guidance by its
`guidance_scale`; with two, `generate_codes` of the exported model is, whose batch is doubled as ours is.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ["OMP_NUM_THREADS"] = "1"

import torch
from torch import Tensor

from elm_dist.checkpoint.export_huggingface import build_config, build_generation_config
from elm_dist.checkpoint.huggingface.modeling_elm import ELMForCausalLM
from elm_dist.checkpoint.model_layouts import huggingface_layout
from elm_dist.config import Grid, ModelConfig, SamplingConfig
from elm_dist.model.decoder import FoldedDecoder
from elm_dist.model.elm import ELM, code_shape, initialize, layer_specs
from elm_dist.model.folded import FoldedELM
from elm_dist.sampling.generate import generate

GREEDY = SamplingConfig(cfg_scale=4.0, cfg_schedule="constant", top_k=1)
Draw = Callable[[Tensor], Tensor]  # from labels (batch,) to codes (batch, positions, subtokens)


def build_model(hidden: int, layers: int, grid: int, subtokens: int) -> tuple[ModelConfig, ELM]:
    model = ModelConfig(
        num_layers=layers, hidden_size=hidden, num_heads=max(1, hidden // 64), subtokens=subtokens, subtoken_bits=10
    )
    elm = ELM(layer_specs(model, Grid(grid, grid))).eval()
    initialize(elm.named_parameters(), seed=0)
    for output in elm.head.outputs:  # they start at zero, which would make all codes alike
        torch.nn.init.normal_(output.weight, generator=torch.Generator().manual_seed(0))
    return model, elm


def export_model(model: ModelConfig, elm: ELM, grid: int) -> ELMForCausalLM:
    exported = ELMForCausalLM(build_config(model, Grid(grid, grid), GREEDY)).eval()
    exported.generation_config = build_generation_config(Grid(grid, grid), GREEDY)
    weights = elm.state_dict()
    exported.load_state_dict({name: make(weights.__getitem__) for name, make in huggingface_layout(model).items()})
    return exported


def ours(model: ModelConfig, elm: ELM, grid: int) -> Draw:
    shape, folded = code_shape(model, Grid(grid, grid)), FoldedELM(elm)

    def draw(labels: Tensor) -> Tensor:
        seeds = list(range(len(labels)))
        return generate(lambda size: FoldedDecoder(folded, size).step, shape, labels, seeds, model.num_classes, GREEDY)

    return draw


def huggingface_generate(exported: ELMForCausalLM) -> Draw:
    def draw(labels: Tensor) -> Tensor:
        null = exported.class_ids(torch.full_like(labels, exported.config.num_classes))
        ids = exported.generate(
            exported.class_ids(labels), do_sample=False, guidance_scale=GREEDY.cfg_scale, negative_prompt_ids=null
        )
        return ids[:, 1:].unsqueeze(2)

    return draw


def exported_generate_codes(exported: ELMForCausalLM) -> Draw:
    return lambda labels: exported.generate_codes(labels, do_sample=False)


def timed(draw: Draw, labels: Tensor) -> tuple[Tensor, float]:
    """Return the codes and the CPU seconds that they took."""
    begin = time.process_time()
    codes = draw(labels)
    return codes, time.process_time() - begin


def compare(one: Draw, other: Draw, labels: Tensor, rounds: int) -> tuple[float, float, float, float]:
    """Return the median seconds of both, the median ratio, and the share of codes that agree."""
    times, agreeing = [], 1.0
    for index in range(rounds + 1):
        if index % 2:  # they take turns in going first
            (codes, first), (others, second) = timed(one, labels), timed(other, labels)
        else:
            (others, second), (codes, first) = timed(other, labels), timed(one, labels)
        agreeing = min(agreeing, (codes == others).double().mean().item())
        times.append((first, second))
    measured = times[1:]  # the first round allocates
    ones, others_ = (statistics.median(column) for column in zip(*measured, strict=True))
    return ones, others_, statistics.median(first / second for first, second in measured), agreeing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in {"hidden": 256, "layers": 4, "grid": 16, "batch": 4, "rounds": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    sizes = parser.parse_args()
    torch.set_num_threads(1)
    labels = torch.arange(sizes.batch)
    print(f"{'one thread, CPU ms an image':<46}{'one':>10}{'other':>10}{'ratio':>8}{'same codes':>12}")
    for subtokens, name, build in (
        (1, "ours / generate of transformers, 1-10", huggingface_generate),
        (2, "ours / generate_codes of the export, 2-10", exported_generate_codes),
    ):
        model, elm = build_model(sizes.hidden, sizes.layers, sizes.grid, subtokens)
        exported = export_model(model, elm, sizes.grid)
        one, other, ratio, same = compare(ours(model, elm, sizes.grid), build(exported), labels, sizes.rounds)
        milliseconds = (1e3 * seconds / sizes.batch for seconds in (one, other))
        print(f"{name:<46}" + "".join(f"{value:>10,.1f}" for value in milliseconds) + f"{ratio:>8.3f}{same:>12.2%}")


if __name__ == "__main__":
    main()
