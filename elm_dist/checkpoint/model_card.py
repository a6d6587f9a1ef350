"""What an export holds, in a line for who made it and as a model card for who finds it.

The card, `README.md`, says what the run's folder says. The licence is for whoever publishes the weights to choose.
"""

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from elm_dist.checkpoint.formats import Target
from elm_dist.checkpoint.model import Weights
from elm_dist.checkpoint.store import Checkpoint
from elm_dist.checkpoint.tokenizer import has_tokenizer, tokenizer_fingerprint
from elm_dist.config import Config
from elm_dist.monitoring import metrics

# What of `sampling:` decides how codes are drawn; precision and weights are the export's own.
SAMPLING = {
    "autoregressive": ("cfg_scale", "cfg_schedule", "cfg_interval", "temperature", "top_k", "top_p"),
    "masked": ("cfg_scale", "cfg_schedule", "cfg_interval", "temperature", "iterations", "mask_temperature", "remask"),
}
HOW = {
    "autoregressive": "it gives the codes of an image one after the other",
    "masked": "it uncovers the codes of an image in a few passes",
}

USE: dict[Target, str] = {
    "safetensors": """\
The names are those of elm-dist, which builds the model that `config.json` describes:

```python
from elm_dist.api import load_pretrained

model = load_pretrained(".")  # of this folder: a torch module
```
""",
    "huggingface": """\
```python
from transformers import AutoModel

model = AutoModel.from_pretrained(".", trust_remote_code=True)  # runs modeling_elm.py of this folder
codes = model.generate_codes([0, 1])  # (2, {positions}, {subtokens}): of two classes
```

{pictures}""",
    "llama": """\
A plain Llama, of which ids up to {last_code} are codes, and those from {vocabulary} on classes, the last of them none:

```python
import torch
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained(".")
begin = {vocabulary} + torch.tensor([[0], [1]])  # images of two classes
null = torch.full_like(begin, {vocabulary} + {num_classes})  # what guidance leads away from
ids = model.generate(begin, guidance_scale=2.0, negative_prompt_ids=null)
codes = ids[:, 1:].unsqueeze(2)  # (2, {positions}, 1)
```

A class is never drawn: `suppress_tokens` in `generation_config.json` says so, and any program that does not read it has
to be told, as the logits of classes are all zero. Nor does any id end an image: it has {positions} codes, {order}.

{pictures}""",
    "official": """\
The names are those of the published weights, whose code wants a `.pth`:

```python
from pathlib import Path
import torch
from safetensors.torch import load_file

files = [load_file(path) for path in Path().glob("*.safetensors")]
torch.save({{name: tensor for file in files for name, tensor in file.items()}}, "elm.pth")
```
""",
}

PICTURES = """\
The folder `tokenizer/`, where there is one, makes pictures of codes, with elm-dist:

```python
from pathlib import Path
from elm_dist.checkpoint.tokenizer import load_tokenizer
from elm_dist.sampling.decode import decode_images

{in_raster}pictures = decode_images(load_tokenizer(Path("tokenizer"), "cpu"), codes, {subtoken_bits})
```
"""
IN_RASTER = """\
from elm_dist.codes.scan import inverse, scan_order
from elm_dist.config import Grid

codes = codes[:, inverse(scan_order("{scan}", Grid({rows}, {columns})))]  # row by row
"""

CARD = """\
---
library_name: {library}
tags: [elm, image-generation]
# license: whoever publishes these weights names one here, such as apache-2.0
---

# {name}

A language model that draws images: {how}, and a tokenizer makes a picture of them
([ELM](https://arxiv.org/abs/2410.16257)).

| | |
|---|---|
{facts}

## Use

{use}"""


@dataclass(frozen=True)
class Export:
    """What was written into `out`; `str` says it in a line, `card` at length."""

    run: Path
    out: Path
    target: Target
    config: Config
    checkpoint: Checkpoint
    weights: Weights
    dtype: str
    parameters: int
    difference: float | None = None  # the largest of a logit from ours, where it was measured

    def __str__(self) -> str:
        measured = "" if self.difference is None else f"; its logits are ours within {self.difference:.1e}"
        step = f"{self.checkpoint.step:,}"
        return f"{self.out}: {self.weights} weights of step {step} in {self.dtype} for {self.target}{measured}"

    def card(self) -> str:
        """Return the model card, in Markdown."""
        model = self.config.model
        return CARD.format(
            library="transformers" if self.target in ("huggingface", "llama") else "elm-dist",
            name=self.config.run.directory.name,
            how=HOW[model.modelling],
            facts="\n".join(f"| {name} | {fact} |" for name, fact in self._facts().items()),
            use=self._use(),
        )

    def _use(self) -> str:
        """Return how to load it and to draw; only a plain Llama gives codes in the order in which they are drawn."""
        model, grid = self.config.model, self.config.tokenizer.grid
        is_in_order = self.target == "llama" and model.scan != "row_raster"
        in_raster = IN_RASTER.format(scan=model.scan, rows=grid.rows, columns=grid.columns) if is_in_order else ""
        return USE[self.target].format(
            positions=grid.cells,
            subtokens=model.subtokens,
            vocabulary=model.vocabulary,
            last_code=model.vocabulary - 1,
            num_classes=model.num_classes,
            order=f"in the order of {model.scan}",
            pictures=PICTURES.format(in_raster=in_raster, subtoken_bits=model.subtoken_bits),
        )

    def _facts(self) -> dict[str, str]:
        model, tokenizer, facts = self.config.model, self.config.tokenizer, self.checkpoint.facts
        grid, averaged = tokenizer.grid, self.weights == "ema"
        is_there = has_tokenizer(tokenizer.directory)
        return {
            "parameters": f"{self.parameters:,}",
            "transformer": f"{model.num_layers} layers of {model.hidden_size}, {model.num_heads} heads",
            "images": f"{tokenizer.image_size} pixels, {model.num_classes:,} classes",
            "codes": f"{grid} codes of {model.subtokens} sub-tokens of {model.subtoken_bits} bits",
            "trained": f"{self.checkpoint.step:,} steps, {facts['samples_seen']:,} images",
            "weights": f"{'averaged over steps' if averaged else 'of the last step'}, {self.dtype}",
            **self._validation(),
            "sampling": ", ".join(f"{key} {getattr(self.config.sampling, key)}" for key in SAMPLING[model.modelling]),
            "training data": f"`{facts['data']}`" if "data" in facts else f"imported from `{facts['imported_from']}`",
            "tokenizer": f"`{tokenizer_fingerprint(tokenizer.directory)}`" if is_there else "was not at hand",
            "exported by": f"elm-dist {version('elm-dist')}",
        }

    def _validation(self) -> dict[str, str]:
        """Return the last loss on the validation images up to the checkpoint's step, if the run measured any."""
        found: dict[str, str] = {}
        path = self.run / "metrics.jsonl"
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            try:
                report = json.loads(line)
            except json.JSONDecodeError:
                continue  # the last line of a run that was killed
            if metrics.VALIDATION_LOSS in report and report["step"] <= self.checkpoint.step:
                nats, bits = report[metrics.VALIDATION_LOSS], report[metrics.VALIDATION_BITS_PER_CODE_BIT]
                of = f"of the weights of step {report['step']:,}"
                found["validation loss"] = f"{nats:.4f} nats per sub-token, {bits:.4f} bits per code bit, {of}"
        return found
