"""What TensorBoard's page CUSTOM SCALARS shows of a training at a glance: which metrics share a chart.

Categories hold charts by their titles, in the form in which `add_custom_scalars` takes them.
"""

from elm_dist.monitoring import metrics as names

Chart = tuple[str, list[str]]
Charts = dict[str, dict[str, Chart]]


def _lines(*tags: str) -> Chart:
    """Return a chart with a line for each metric. TensorBoard looks for tags that begin with a regular expression."""
    return "Multiline", [f"{tag}$" for tag in tags]


# Four to a row, as a wide window shows them.
TRAINING: Charts = {
    "learning": {
        "loss: train and validation (nats)": _lines(names.LOSS, names.VALIDATION_LOSS),
        "bits per code bit": _lines(names.BITS_PER_CODE_BIT, names.VALIDATION_BITS_PER_CODE_BIT),
        "accuracy of each head": _lines("train/accuracy_head_[0-9]+", "validation/accuracy_head_[0-9]+"),
        "learning rate": _lines(names.LEARNING_RATE),
    },
    "speed and memory": {
        "images per second": _lines(names.IMAGES_PER_SECOND),
        "seconds per step": _lines(names.STEP_SECONDS),
        "data wait, bubble, MFU (%)": _lines(names.DATA_WAIT_PERCENT, names.BUBBLE_PERCENT, names.MFU_PERCENT),
        "peak memory (GiB)": _lines(f"{names.MEMORY_GIB}(_stage_[0-9]+)?"),
    },
    "health": {
        "gradient norm before clipping": _lines(names.GRAD_NORM),
        "spikes of the loss (sigma)": _lines(names.SPIKE_SIGMA),
        "skipped steps, bad shards": _lines(names.SKIPPED_STEPS, names.BAD_SHARDS),
        "goodput (%)": _lines(names.GOODPUT_PERCENT),
    },
}
