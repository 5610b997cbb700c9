"""What to minimise, who learns, in what order. The literal tables of this island; `use: name` in a recipe picks from them."""

from crossfade.training.adapt import distill, information, pseudo_label
from crossfade.training.binary import binary_cross_entropy
from crossfade.training.criteria import Criterion, agreement, entropy, snd
from crossfade.training.criteria import information as mutual_information
from crossfade.training.long_tail import focal, logit_adjusted
from crossfade.training.picture_terms import dssim, l1, perceptual, temporal
from crossfade.training.rates import adam, adamw, sgd
from crossfade.training.schedules import constant, cosine
from crossfade.training.terms import cross_entropy

TERMS = {
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "focal": focal,
    "logit_adjusted": logit_adjusted,
    "pseudo_label": pseudo_label,
    "distill": distill,
    "information": information,
}
PICTURE_TERMS = {"l1": l1, "dssim": dssim, "temporal": temporal, "perceptual": perceptual}
OPTIMIZERS = {"adam": adam, "adamw": adamw, "sgd": sgd}
SCHEDULES = {"constant": constant, "cosine": cosine}
CRITERIA = {
    "entropy": Criterion(entropy, "Certainty (minus the mean entropy)"),
    "information": Criterion(mutual_information, "Mutual information"),
    "snd": Criterion(snd, "Soft neighbourhood density"),
    "agreement": Criterion(agreement, "Agreement", pair=True),
}
