"""Whether shards and tokenizer are there and fit the run: asked before processes join, which takes long."""

from elm_dist.checkpoint.tokenizer import check_tokenizer_fits, tokenizer_fingerprint
from elm_dist.config import Config
from elm_dist.data.shards import check_manifest_fits, load_manifest
from elm_dist.errors import ConfigError, ShardError


def check_data(config: Config) -> None:
    """Raise an ElmError unless shards and tokenizer are there and fit the run; done before any process is joined."""
    tokenizer = config.tokenizer
    if not config.data.shards.exists():
        raise ShardError(
            f"{config.data.shards}: there are no token shards here; make them with two commands: `elm tokenizer train "
            f"CONFIG` (unless {tokenizer.directory} is there), then `elm tokenize --images "
            f"{config.tokenizer_training.images} --tokenizer {tokenizer.directory} --out {config.data.shards}`"
        )
    manifest = load_manifest(config.data.shards)
    check_tokenizer_fits(tokenizer.directory, tokenizer)
    check_manifest_fits(
        manifest,
        config.data.shards,
        code_bits=tokenizer.code_bits,
        grid=tokenizer.grid,
        tokenizer_fingerprint=tokenizer_fingerprint(tokenizer.directory),
    )
    if len(manifest.classes) > config.model.num_classes:
        raise ConfigError(
            f"model.num_classes={config.model.num_classes} is too few: {config.data.shards} has "
            f"{len(manifest.classes)} classes; set model.num_classes={len(manifest.classes)}"
        )
    batch, samples = config.schedule.global_batch_size, manifest.samples("validation")
    if config.monitoring.validation_every and min(config.monitoring.validation_samples, samples) < batch:
        raise ConfigError(
            f"validation needs at least one global batch of {batch} samples, but monitoring.validation_samples is "
            f"{config.monitoring.validation_samples} and {config.data.shards} has {samples}; raise the one, make more "
            "of the other, or set monitoring.validation_every=0"
        )
