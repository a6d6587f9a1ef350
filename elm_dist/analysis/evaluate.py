"""What `elm evaluate` does with what it is given: scores of samples, the loss of a run, or two results side by side."""

from pathlib import Path

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
    features: FeatureName,
    inception_weights: Path | None,
    save_statistics: Path | None,
    batch_size: int,
    out: Path | None,
    compare: tuple[Path, Path] | None,
) -> SampleScores | RunLoss | ScoreComparison:
    """Return what rich prints as tables; raises an ElmError for options that do not go together."""
    of_samples = any(option is not None for option in (reference, inception_weights, save_statistics))
    if compare is not None:
        if of_samples or target is not None or out is not None:
            raise EvaluationError(
                "--compare A B reads two results and measures nothing; leave all other options and places out"
            )
        return compare_scores(*compare)
    if target is None:
        raise EvaluationError("there is nothing to evaluate: give SAMPLES and --reference, a RUN, or --compare A B")
    if is_run(target):
        if of_samples:
            raise EvaluationError(
                f"{target} is a run, whose loss needs no reference; to score images of it, draw them with `elm sample`"
            )
        return evaluate_run(target, batch_size=batch_size, out=out)
    if reference is None:
        raise EvaluationError(f"{target}: samples are scored against real images; give these with --reference")
    return evaluate_samples(
        target,
        reference,
        features=features,
        inception_weights=inception_weights,
        batch_size=batch_size,
        save_statistics=save_statistics,
        out=out,
    )
