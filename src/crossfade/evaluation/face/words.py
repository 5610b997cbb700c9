"""What the numbers of a talking face mean, in sentences that claim no more than their intervals do."""

from __future__ import annotations

from crossfade.evaluation.face import MEASURES
from crossfade.evaluation.face.scores import ShiftCurve
from crossfade.evaluation.intervals import NO_DIFFERENCE, Comparison

STEPS = 255  # of a value of an 8-bit picture
FRAME = 40  # milliseconds
FEW = 5  # groups: with fewer, an interval is too rough to rest a claim on
SLIGHT = 0.01  # of the mouth's error: less than this the sound cannot be said to matter
CONSENT = "Synthetic faces. Show and share them only of people who agreed to exactly this, and say that they are synthetic."
UNFINISHED = "Nothing is judged yet: this page shows how the training goes. Numbers with intervals follow at its end."
UNMEASURED = {
    "lpips": "LPIPS was not computed: it needs published weights, which do not come with Crossfade.",
    "sync_distance": "SyncNet's distance and confidence were not computed: they need published weights, which do not come with Crossfade.",
}
MEANING: dict[str, str] = {
    "psnr": "ten times the logarithm of 1 over the mean squared error; 3 dB more halve that error, 100 dB is the most that is given",
    "ssim": "likeness of structure in windows of 11 × 11 pixels; 1 = the same picture",
    "mae": "mean difference of a value, where black is 0 and white is 1",
    "temporal": "how far the change from one frame to the next is from the true change; a mouth that stands still or trembles has more",
    "sensitivity": "by how much the mouth's mean error grows when the sound comes five frames, 200 ms, late; above 0: the sound is used",
    "lpips": "distance as people see it, by AlexNet's features (arXiv 1801.03924); 0 = the same picture",
    "sync_distance": "distance of mouth and sound at the best shift, by SyncNet (Chung & Zisserman 2016)",
    "sync_confidence": "by how much the best shift is better than the middle one, by SyncNet",
}


def meaning(name: str) -> str:
    """What a number is; of the mouth the same as of the whole face."""
    return MEANING[name.removeprefix("mouth_")]


def reading(found: dict) -> list[str]:
    """Of a summary: what the mouth's error amounts to, and whether the sound matters."""
    said = []
    if found.get("mouth_mae") is not None:
        steps = STEPS * found["mouth_mae"]
        said.append(f"A value of the mouth is off by {steps:.1f} of {STEPS} steps on average.")
    return [*said, *_sound(found)]


def _sound(found: dict) -> list[str]:
    value, ends = found.get("sensitivity"), found["intervals"].get("sensitivity")
    if value is None:
        return []
    written = MEASURES["sensitivity"].signed(value)
    if ends is None:
        return [f"Sound shifted by five frames changes the mouth's mean error by {written}; one group cannot show whether that is chance."]
    reach = f"{written} {between('sensitivity', *ends)}"
    if ends[0] > SLIGHT * found.get("mouth_mae", 0.0) and found.get("n_groups", FEW) >= FEW:
        share = f", {value / found['mouth_mae']:.0%} of it" if found.get("mouth_mae") else ""
        return [f"The mouth follows the sound: shifted by five frames, the mouth's mean error grows by {reach}{share}."]
    return [f"This does not show that the mouth follows the sound: shifted by five frames, its mean error changes by {reach}."]


def between(name: str, low: float, high: float) -> str:
    """[+0.21 dB, +0.60 dB] without the unit twice: [+0.21, +0.60]."""
    return f"[{', '.join(MEASURES[name].signed(end).removesuffix(' dB') for end in (low, high))}]"


def claim(found: Comparison, group_name: str = "group") -> str:
    """One comparison as a sentence: who is better where the interval excludes 0, else that nothing is shown."""
    measure = MEASURES[found.metric]
    label = measure.label[0].lower() + measure.label[1:] if measure.label[1].islower() else measure.label
    groups = f"over {counted(found.n_groups, group_name)}"
    if found.low is None or found.high is None:
        return f"Whether “{found.a}” or “{found.b}” is better in {label} cannot be said: {found.note or 'there is no interval.'}"
    reach = f"{measure.signed(found.difference)} {between(found.metric, found.low, found.high)} {groups}"
    if found.n_groups < FEW:
        return f"“{found.a}” against “{found.b}” in {label}: {counted(found.n_groups, group_name)} are too few to say ({reach})."
    if found.verdict == NO_DIFFERENCE or measure.show(abs(found.difference)) == measure.show(0.0):
        return f"“{found.a}” against “{found.b}” in {label}: no difference that these clips can show ({reach})."
    winner, loser = (found.a, found.b) if (found.difference > 0) is measure.higher_is_better else (found.b, found.a)
    less = "" if measure.higher_is_better else ", less is better"
    return f"“{winner}” beats “{loser}” in {label}: {found.a} − {found.b} is {reach}{less}."


def counted(number: int, name: str) -> str:
    """1 sentence, 58 sentences; 2 stretches of 3 s."""
    first, *rest = name.split(" ", 1)
    several = f"{first}es" if first.endswith(("ch", "s", "x")) else f"{first}s"
    return " ".join([f"{number:,}", first if number == 1 else several, *rest])


def in_step(curve: ShiftCurve) -> str:
    """Where the mouth's error is least, if it depends on the sound at all."""
    if not curve.errors or max(curve.errors) - min(curve.errors) < SLIGHT * min(curve.errors):
        return "The error hardly depends on when the sound comes: this network does not follow it, or not yet."
    if curve.best == 0:
        return "The error is least where picture and sound are as they were in training, as it should be."
    return (
        f"The error is least where the sound comes {curve.best:+d} frames late ({curve.best * FRAME:+d} ms): "
        "picture and sound of the data may be out of step."
    ).replace("-", "−")


def left_out(found: dict) -> list[str]:
    """What was not measured, and why."""
    return [text for name, text in UNMEASURED.items() if found.get(name) is None]
