"""How good it is, from a table of predictions only. The literal table of this island: every metric by name."""

from crossfade.evaluation.scores import Metric, accuracy, balanced_accuracy, expected_calibration_error, macro_f1, negative_log_likelihood

METRICS: dict[str, Metric] = {
    "accuracy": Metric(accuracy, "Accuracy"),
    "balanced_accuracy": Metric(balanced_accuracy, "Balanced accuracy (UAR)"),
    "macro_f1": Metric(macro_f1, "Macro-F1"),
    "nll": Metric(negative_log_likelihood, "Negative log-likelihood", higher_is_better=False, share=False),
    "ece": Metric(expected_calibration_error, "Calibration error (ECE)", higher_is_better=False),
}
