"""The one door for weights that others have published: a transformer becomes a run, a tokenizer a folder of ours."""

from pathlib import Path

from elm_dist.checkpoint.import_model import import_model
from elm_dist.checkpoint.official import import_tokenizer
from elm_dist.checkpoint.published import read_published
from elm_dist.checkpoint.published_model import is_transformer
from elm_dist.errors import CheckpointError, TokenizerError
from elm_dist.model.cost import count_parameters

IMAGE_SIZE = 256  # pixels per side of what the published tokenizers were trained on


def import_weights(
    path: Path,
    out: Path,
    *,
    tokenizer: Path | None = None,
    shards: Path | None = None,
    heads: int | None = None,
    image_size: int | None = None,
) -> str:
    """Write what the file `path` holds into the folder `out`, and return in a line what it is.

    `tokenizer`, `shards` and `heads` are for a transformer, see `import_model`; `image_size`, in pixels, is for a
    tokenizer. Raises the CheckpointError or TokenizerError of what is wrong with the file, the folders or these.
    """
    published = read_published(path)
    if not is_transformer(published.averaged):
        if (tokenizer, shards, heads) != (None, None, None):
            raise TokenizerError(
                f"{path}: --tokenizer, --shards and --heads are for a transformer, which this is not; omit them"
            )
        made = import_tokenizer(published, out, image_size or IMAGE_SIZE)
        return f"{out}: a {made.kind} of {made.code_bits} bits, {made.grid} codes an image"
    if image_size is not None:
        raise CheckpointError(
            f"{path}: --image-size is for a tokenizer, and this is a transformer, whose images are those of the "
            "--tokenizer; omit it"
        )
    config = import_model(published, out, tokenizer, shards, heads)
    model, parameters = config.model, count_parameters(config.model, config.tokenizer.grid)
    return (
        f"{out}: {parameters:,} parameters of {model.modelling} modelling, {model.num_layers} layers of "
        f"{model.hidden_size}, {model.num_heads} heads, {model.subtokens}-{model.subtoken_bits} codes, "
        f"{model.num_classes} classes, as the checkpoint of step 0; see `elm sample`"
    )
