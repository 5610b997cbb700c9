"""A talking head: from a video to its face and its sound, 25 times a second. The literal tables of this part."""

from crossfade.data.face.sound_rows import logmel256
from crossfade.data.face.wavlm_rows import wavlm
from crossfade.data.face.wenet import wenet

FEATURES = {"logmel256": logmel256, "wenet": wenet, "wavlm": wavlm}
