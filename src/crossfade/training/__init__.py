"""What to minimise, who learns, in what order. The literal tables of this island; `use: name` in a recipe picks from them."""

from crossfade.training.rates import adam, adamw, sgd
from crossfade.training.schedules import constant, cosine
from crossfade.training.terms import cross_entropy

TERMS = {"cross_entropy": cross_entropy}
OPTIMIZERS = {"adam": adam, "adamw": adamw, "sgd": sgd}
SCHEDULES = {"constant": constant, "cosine": cosine}
