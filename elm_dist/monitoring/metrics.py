"""The names of what a run measures, with their units, and how they follow from what the engine counted."""

import math
from collections.abc import Sequence

LOSS = "train/loss"  # mean cross-entropy per sub-token, nats
BITS_PER_CODE_BIT = "train/bits_per_code_bit"  # 1.0 = nothing learned; comparable between decompositions
GRAD_NORM = "optimizer/grad_norm"  # before clipping
LEARNING_RATE = "optimizer/learning_rate"
IMAGES_PER_SECOND = "speed/images_per_second"
STEP_SECONDS = "speed/step_seconds"
MFU_PERCENT = "speed/mfu_percent"  # of the device's dense bf16 peak; absent where that is not known
DATA_WAIT_PERCENT = "speed/data_wait_percent"  # of the step that the main process waited for its shards
BUBBLE_PERCENT = "speed/pipeline_bubble_percent"  # of the last step that a pipeline's ranks waited for each other
MEMORY_GIB = "memory/peak_gib"  # of the main process's device
BAD_SHARDS = "data/bad_shards"  # that the main process came across since it started, as is the next
REPLACED_SAMPLES = "data/replaced_samples"  # read in place of those in bad shards, by the main process alone
SKIPPED_STEPS = "progress/skipped_steps"  # of the run so far: without finite gradients
SPIKE_SIGMA = "train/spike_sigma"  # of the losses since the last report, the farthest above the 128 before it
SAMPLES_SEEN = "progress/samples_seen"
ETA_HOURS = "progress/eta_hours"
GOODPUT_PERCENT = "progress/goodput_percent"  # of the run's whole time that went into steps which count
SAMPLE_GRID = "samples/grid"
VALIDATION_LOSS = "validation/loss"
VALIDATION_BITS_PER_CODE_BIT = "validation/bits_per_code_bit"


def stage_memory(stage: int) -> str:
    """Return the name of the largest use of memory of any process of a pipeline's stage."""
    return f"{MEMORY_GIB}_stage_{stage}"


def bits_per_code_bit(loss: float, subtoken_bits: int) -> float:
    """Return a loss in nats per sub-token as bits per code bit: what an ideal coder needs for each bit of the codes."""
    return loss / (subtoken_bits * math.log(2))


def loss_metrics(
    split: str, head_losses: Sequence[float], head_accuracies: Sequence[float], subtoken_bits: int
) -> dict[str, float]:
    """Return the losses of one split ("train" or "validation") under their names."""
    loss = sum(head_losses) / len(head_losses)
    metrics = {f"{split}/loss": loss, f"{split}/bits_per_code_bit": bits_per_code_bit(loss, subtoken_bits)}
    for head, (head_loss, accuracy) in enumerate(zip(head_losses, head_accuracies, strict=True)):
        metrics[f"{split}/loss_head_{head}"] = head_loss
        metrics[f"{split}/accuracy_head_{head}"] = accuracy
    return metrics
