"""How good it is, from a table of predictions only. The literal tables of this island: every metric by name."""

from crossfade.evaluation import tag_scores
from crossfade.evaluation.scores import (
    Metric,
    accuracy,
    auroc,
    balanced_accuracy,
    expected_calibration_error,
    macro_f1,
    mean_average_precision,
    negative_log_likelihood,
    summed,
)

METRICS: dict[str, Metric] = {
    "accuracy": Metric(summed(accuracy), "Accuracy"),
    "balanced_accuracy": Metric(summed(balanced_accuracy), "Balanced accuracy (UAR)"),
    "macro_f1": Metric(summed(macro_f1), "Macro-F1"),
    "auroc": Metric(auroc, "Area under the ROC curve (AUROC)", undefined=0.5),
    "average_precision": Metric(mean_average_precision, "Mean average precision (mAP)"),
    "nll": Metric(summed(negative_log_likelihood), "Negative log-likelihood", higher_is_better=False, share=False),
    "ece": Metric(summed(expected_calibration_error), "Calibration error (ECE)", higher_is_better=False),
}

TAG_METRICS: dict[str, Metric] = {  # where a clip may have several classes at once
    "accuracy": Metric(summed(tag_scores.accuracy), "Every class right"),
    "balanced_accuracy": Metric(summed(tag_scores.balanced_accuracy), "Balanced accuracy", undefined=0.5),
    "macro_f1": Metric(summed(tag_scores.macro_f1), "Macro-F1", undefined=0.0),
    "auroc": Metric(tag_scores.auroc, "Area under the ROC curve (AUROC)", undefined=0.5),
    "average_precision": Metric(mean_average_precision, "Mean average precision (mAP)", undefined=0.0),
    "nll": Metric(summed(tag_scores.cross_entropy), "Binary cross-entropy", higher_is_better=False, share=False),
    "ece": Metric(summed(tag_scores.calibration_error), "Calibration error (ECE)", higher_is_better=False),
    "micro_f1": Metric(summed(tag_scores.micro_f1), "Micro-F1", undefined=0.0),
}
