"""What `elm evaluate` does with what it is given: scores of samples, the loss of a run, or two results side by side.

Knows nothing of how any of these is measured.
"""

from pathlib import Path

from elm_dist.analysis.class_scores import ClassScores, evaluate_classes
from elm_dist.analysis.run_loss import RunLoss, evaluate_run
from elm_dist.analysis.sample_scores import SampleScores, evaluate_samples
from elm_dist.analysis.score_comparison import ScoreComparison, compare_scores
from elm_dist.checkpoint.run_folder import is_run
from elm_dist.errors import EvaluationError
from elm_dist.evaluation.features import FeatureName


def evaluate(
    target: Path | None,
    *,
    reference: Path | None,
    images: Path | None,
    tokenizer: Path | None,
    features: FeatureName,
    inception_weights: Path | None,
    save_statistics: Path | None,
    batch_size: int,
    out: Path | None,
    compare: tuple[Path, Path] | None,
) -> SampleScores | ClassScores | RunLoss | ScoreComparison:
    """Return what rich prints as tables; raises an ElmError for options that do not go together."""
    of_reference = reference is not None or save_statistics is not None
    of_images = images is not None or tokenizer is not None
    of_samples = of_reference or of_images or inception_weights is not None
    if compare is not None:
        if of_samples or target is not None or out is not None:
            raise EvaluationError(
                "--compare A B reads two results and measures nothing; leave all other options and places out"
            )
        return compare_scores(*compare)
    if target is None:
        raise EvaluationError(
            "there is nothing to evaluate: give SAMPLES and --reference or --images, a RUN, or --compare A B"
        )
    if is_run(target):
        if of_samples:
            raise EvaluationError(
                f"{target} is a run, whose loss needs no reference; to score images of it, draw them with `elm sample`"
            )
        return evaluate_run(target, batch_size=batch_size, out=out)
    if images is not None and not of_reference:
        return evaluate_classes(
            target,
            images,
            tokenizer=tokenizer,
            features=features,
            inception_weights=inception_weights,
            batch_size=batch_size,
            out=out,
        )
    if of_images:
        raise EvaluationError(
            "--images, alone or with --tokenizer, asks for class agreement, and --reference, alone or with "
            "--save-statistics, for a distance to any real images; ask for one of the two"
        )
    if reference is None:
        raise EvaluationError(f"{target}: samples are scored against real images; give --reference or --images")
    return evaluate_samples(
        target,
        reference,
        features=features,
        inception_weights=inception_weights,
        batch_size=batch_size,
        save_statistics=save_statistics,
        out=out,
    )
