"""The jobs of the study, each of commands that a user could type, and which of them waits for which.

Knows nothing of how jobs are run, nor of what their results mean.
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from elm_dist.study.variants import (
    BASE,
    CODES,
    SCALES,
    SCHEDULES,
    SEEDS,
    SIZES,
    TOKENIZERS,
    VARIANTS,
    Variant,
)

FEATURES = ("--features", "mobilenet_v2")
BATCH = ("--batch-size", "100")  # images drawn or measured together; one thread gains nothing from more


@dataclass(frozen=True)
class Job:
    name: str
    commands: tuple[str, ...]  # each is what follows `elm`, one after the other
    needs: tuple[str, ...] = ()  # names of jobs that must be done before


def command(*words: object) -> str:
    """Return words as one line; the first may be several words."""
    return f"{words[0]} {shlex.join(map(str, words[1:]))}"


@dataclass(frozen=True)
class StudyPlan:
    """A study: its configuration, the settings laid over all of it, and the folder that everything goes into."""

    config: Path
    overrides: tuple[str, ...]
    out: Path
    per_class: int  # samples of each class that a model is scored by

    @property
    def images(self) -> Path:
        return self.out / "images"

    def run(self, name: str) -> Path:
        return self.out / "runs" / name

    def codes(self, name: str) -> Path:
        return self.out / "codes" / name

    def jobs(self) -> list[Job]:
        """Return all jobs, the more urgent first; a job comes after those that it needs."""
        return [
            *self._tokenizers(),
            *(job for variant in VARIANTS for seed in variant.seeds for job in self._model(variant, seed)),
            *self._analyses(),
        ]

    def _tokenizers(self) -> Iterator[Job]:
        for name in TOKENIZERS:
            for seed in SEEDS:
                folder = self._tokenizer(name, seed)
                settings = self._settings(f"run.seed={seed}", *self._of_tokenizer(name, seed))
                yield Job(f"tokenizer/{name}-{seed}", (command("tokenizer train", self.config, *settings),))
                report = command(
                    "tokenizer report", folder, "--images", self.images, "--out", self.out / "reports" / folder.name
                )
                yield Job(f"report/{name}-{seed}", (report,), (f"tokenizer/{name}-{seed}",))
        for name, codes in CODES.items():
            how = ("--tokenizer", self._tokenizer(codes.tokenizer), "--payload", codes.payload)
            tokenize = command("tokenize", "--images", self.images, *how, "--out", self.codes(name))
            yield Job(f"codes/{name}", (tokenize,), (f"tokenizer/{codes.tokenizer}-0",))

    def _model(self, variant: Variant, seed: int) -> Iterator[Job]:
        """Yield the job that trains a model, and the one that measures its loss, draws with it and scores that."""
        name = f"{variant.name}-{seed}"
        run, samples, loss, scores = self.run(name), *(self.out / f / name for f in ("samples", "losses", "scores"))
        settings = self._settings(
            f"run.directory={run}",
            f"run.seed={seed}",
            f"data.shards={self.codes(variant.codes)}",
            *self._of_tokenizer(variant.tokenizer),
            *variant.settings,
        )
        yield Job(f"train/{name}", (command("train", self.config, *settings),), (f"codes/{variant.codes}",))
        is_first = name == f"{BASE}-0"  # it measures the real images, for all that come after
        real = (self.images / "validation", "--save-statistics", self._reference) if is_first else (self._reference,)
        yield Job(
            f"measure/{name}",
            (
                command("evaluate", run, *BATCH, "--out", f"{loss}.json"),
                command("sample", run, "--per-class", self.per_class, *BATCH, "--out", samples),
                command("evaluate", samples, "--reference", *real, *FEATURES, "--out", f"{scores}.json"),
            ),
            (f"train/{name}",) if is_first else (f"train/{name}", f"measure/{BASE}-0"),
        )

    def _analyses(self) -> Iterator[Job]:
        def analyze(what: str, *words: object, out: str) -> str:
            return command("analyze", what, *words, "--out", self.out / "analyses" / out)

        codes = [self.codes(name) for name in CODES]
        counts = (analyze("tokens", *codes, out="tokens"), analyze("codes", *codes, out="codes"))
        yield Job("analysis/codes", counts, tuple(f"codes/{name}" for name in CODES))
        runs = {f"{name}-{seed}": self.run(f"{name}-{seed}") for name in SIZES for seed in SEEDS}
        yield Job(
            "analysis/sizes",
            (
                analyze("scaling", *runs.values(), out="scaling"),
                *(analyze("attention", run, out=f"attention-{name}") for name, run in runs.items()),
            ),
            tuple(f"train/{name}" for name in runs),
        )
        sweep = ("--schedules", ",".join(SCHEDULES), "--scales", ",".join(f"{scale:g}" for scale in SCALES))
        drawn = ("--reference", self._reference, "--per-class", self.per_class, *BATCH, *FEATURES)
        for seed in SEEDS:
            sampling = analyze("sampling", self.run(f"{BASE}-{seed}"), *sweep, *drawn, out=f"sampling-{seed}")
            yield Job(f"analysis/sampling-{seed}", (sampling,), (f"train/{BASE}-{seed}", f"measure/{BASE}-0"))

    def _settings(self, *settings: str) -> tuple[str, ...]:
        return (*self.overrides, f"tokenizer_training.images={self.images}", *settings)

    def _of_tokenizer(self, name: str, seed: int = 0) -> tuple[str, ...]:
        return f"tokenizer.directory={self._tokenizer(name, seed)}", *TOKENIZERS[name]

    def _tokenizer(self, name: str, seed: int = 0) -> Path:
        return self.out / "tokenizers" / f"{name}-{seed}"

    @property
    def _reference(self) -> Path:
        return self.out / "reference.safetensors"
