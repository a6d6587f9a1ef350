"""What the study trains: tokenizers, folders of codes, and models that differ from one base in one thing each.

Names and settings alone; knows nothing of how anything is run.
"""

from dataclasses import dataclass

SEEDS = (0, 1)
BASE = "base"
BASE_SEEDS = (0, 1, 2)

# Tokenizers by name, as settings laid over the study's configuration, which describes the BAE.
TOKENIZERS: dict[str, tuple[str, ...]] = {
    "bae": (),
    "vqgan": ("tokenizer.kind=vqgan", "tokenizer.codebook_size=4096"),
}


@dataclass(frozen=True)
class Codes:
    """A folder of codes: of which tokenizer, and what is stored."""

    tokenizer: str
    payload: str


CODES = {
    "bernoulli": Codes("bae", "probabilities"),  # drawn anew whenever they are read
    "deterministic": Codes("bae", "bits"),  # the likelier of both, always the same
    "vqgan": Codes("vqgan", "bits"),
}


@dataclass(frozen=True)
class Variant:
    """One model: the settings in which it differs from the base, the codes that it learns, and its seeds."""

    name: str
    settings: tuple[str, ...] = ()
    codes: str = "bernoulli"
    seeds: tuple[int, ...] = SEEDS

    @property
    def tokenizer(self) -> str:
        return CODES[self.codes].tokenizer

    def runs(self) -> list[str]:
        """Return the names of its runs."""
        return [f"{self.name}-{seed}" for seed in self.seeds]


WHOLE = ("model.subtokens=1", "model.subtoken_bits=12")  # a code as one sub-code
UNTRAINED = ("schedule.total_steps=1", "schedule.warmup_steps=0", "optimizer.learning_rate=1e-9")

VARIANTS = (
    Variant(BASE, seeds=BASE_SEEDS),
    Variant("small", ("model.num_layers=2", "model.hidden_size=32")),
    Variant("large", ("model.hidden_size=128",)),
    Variant("masked", ("model.modelling=masked",)),
    Variant("1-12", WHOLE),
    Variant("3-4", ("model.subtokens=3", "model.subtoken_bits=4")),
    Variant("column_raster", ("model.scan=column_raster",)),
    Variant("row_zigzag", ("model.scan=row_zigzag",)),
    Variant("column_zigzag", ("model.scan=column_zigzag",)),
    Variant("diagonal_zigzag", ("model.scan=diagonal_zigzag",)),
    Variant("deterministic", codes="deterministic"),
    # The number of an entry, whose bits mean nothing by themselves: sub-codes would ask a model to guess.
    Variant("vqgan", (*TOKENIZERS["vqgan"], *WHOLE), codes="vqgan"),
    Variant("untrained", UNTRAINED, seeds=SEEDS[:1]),
    Variant("vqgan_untrained", (*TOKENIZERS["vqgan"], *WHOLE, *UNTRAINED), codes="vqgan", seeds=SEEDS[:1]),
)
# By tokenizer, the model that draws noise: a distance by which it does better than others says nothing of them.
CONTROLS = {"bae": "untrained", "vqgan": "vqgan_untrained"}
SIZES = ("small", BASE, "large")

# Guidance that the base is sampled with, beside its own.
SCHEDULES, SCALES = ("constant", "linear", "cos"), (2.0, 4.0)
