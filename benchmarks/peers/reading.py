"""A video with sound in, (8 frames at 112 pixels, log-mel of 64 bands) out: by each tool as it is meant to be used, on one thread."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

COUNT, SIZE, RATE, SAMPLES = 8, 112, 16000, 48000
N_FFT, HOP, MELS = 400, 160, 64
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
Read = Callable[[str], tuple[np.ndarray, np.ndarray]]  # a file -> normalised (8, 3, 112, 112), decibel (64, 301)


def ours(store: str) -> Read:
    from crossfade.clip import Clip
    from crossfade.data.intake import Reader
    from crossfade.data.log_mel import log_mel
    from crossfade.data.streams import frames
    from crossfade.data.visit import visiting
    from crossfade.store import Store

    one_torch_thread()
    streams = {"video": frames(count=COUNT, size=SIZE), "audio": log_mel()}
    reader = Reader(streams, Store(Path(store)))

    def read(path: str) -> tuple[np.ndarray, np.ndarray]:
        clip = Clip(path, {"video": Path(path)}, {}, "")
        with visiting():  # as `take_in` does
            decoded = [reader.read(clip, name) for name in streams]
        video, audio = (stream.finish(each)[0].numpy() for each, stream in zip(decoded, streams.values(), strict=True))
        return video, audio[0]

    return read


def bare(store: str) -> Read:
    """The floor: everything decoded and thrown away."""
    import av

    def read(path: str) -> tuple[np.ndarray, np.ndarray]:
        with av.open(path) as container:
            for stream in container.streams:
                stream.codec_context.thread_count = 1
            for packet in container.demux():
                packet.decode()
        return np.empty(0), np.empty(0)

    return read


def opencv(store: str) -> Read:
    """Its sound: librosa, which asks the `ffmpeg` command for what libsndfile cannot read."""
    import librosa

    return opencv_with(lambda path: librosa.load(path, sr=RATE)[0])


def opencv_and_wav(store: str) -> Read:
    """Its sound was written to a .wav of that name before the clock started."""
    import librosa

    return opencv_with(lambda path: librosa.load(Path(store) / f"{Path(path).stem}.wav", sr=RATE)[0])


def opencv_with(sound: Callable[[str], np.ndarray]) -> Read:
    import cv2

    cv2.setNumThreads(1)

    def read(path: str) -> tuple[np.ndarray, np.ndarray]:
        video = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1])
        total, pictures = int(video.get(cv2.CAP_PROP_FRAME_COUNT)), []
        wanted = set(linspace(total))
        for index in range(total):
            if not video.grab():
                break
            if index in wanted:
                pictures.append(cv2.cvtColor(cv2.resize(video.retrieve()[1], (SIZE, SIZE)), cv2.COLOR_BGR2RGB))
        return normalised(np.stack(pictures)), librosa_mel(sound(path))

    return read


def decord(store: str) -> Read:
    import decord as tool

    def read(path: str) -> tuple[np.ndarray, np.ndarray]:
        video = tool.VideoReader(path, num_threads=1, width=SIZE, height=SIZE)
        pictures = video.get_batch(linspace(len(video))).asnumpy()
        return normalised(pictures), librosa_mel(tool.AudioReader(path, sample_rate=RATE, mono=True)[:].asnumpy()[0])

    return read


def torchcodec(store: str) -> Read:
    import librosa
    import torch
    from torchcodec.decoders import AudioDecoder, VideoDecoder
    from torchcodec.transforms import Resize

    one_torch_thread()
    mean, std = (torch.from_numpy(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    window, bank = torch.hann_window(N_FFT), torch.from_numpy(librosa.filters.mel(sr=RATE, n_fft=N_FFT, n_mels=MELS, htk=True, norm=None))

    def frames(path: str) -> torch.Tensor:
        video = VideoDecoder(path, num_ffmpeg_threads=1, transforms=[Resize((SIZE, SIZE))])
        spared = 3 if path.endswith(".mpg") else 0  # it cannot read the last three of these: "no more frames left to decode"
        return video.get_frames_at(linspace(len(video) - spared)).data

    def read(path: str) -> tuple[np.ndarray, np.ndarray]:
        sound = AudioDecoder(path, sample_rate=RATE, num_channels=1).get_all_samples().data[0, :SAMPLES]
        sound = torch.nn.functional.pad(sound, (0, SAMPLES - len(sound)))
        spectrum = torch.stft(sound, N_FFT, hop_length=HOP, window=window, pad_mode="reflect", return_complex=True).abs().square()
        mel = 10 * (bank @ spectrum).clamp(min=1e-10).log10()
        return ((frames(path).float() / 255 - mean) / std).numpy(), mel.numpy()

    return read


READERS: dict[str, Callable[[str], Read]] = {reader.__name__: reader for reader in (ours, bare, opencv, opencv_and_wav, decord, torchcodec)}


def linspace(total: int) -> list[int]:
    return np.linspace(0, total - 1, COUNT).astype(int).tolist()


def normalised(pictures: np.ndarray) -> np.ndarray:
    """uint8 (8, H, W, 3) -> float32 (8, 3, H, W)"""
    return ((pictures.astype(np.float32) / 255 - MEAN) / STD).transpose(0, 3, 1, 2)


def librosa_mel(sound: np.ndarray) -> np.ndarray:
    import librosa

    fixed = librosa.util.fix_length(sound, size=SAMPLES)
    options = {"n_fft": N_FFT, "hop_length": HOP, "n_mels": MELS, "htk": True, "norm": None, "pad_mode": "reflect"}
    return librosa.power_to_db(librosa.feature.melspectrogram(y=fixed, sr=RATE, **options), top_db=None)


def one_torch_thread() -> None:
    import torch

    torch.set_num_threads(1)


def clocked(read: Read, file: str, place: str) -> float:
    """Seconds; what was read is kept at `place`, where one is given."""
    started = time.perf_counter()
    pictures, sound = read(file)
    seconds = time.perf_counter() - started
    if place:
        np.savez(place, pictures=pictures, sound=sound)
    return seconds


def main() -> None:
    """For each line of JSON, [[file, where its arrays go or ""], …], one with the seconds they took, as long as there are lines."""
    read = READERS[sys.argv[1]](sys.argv[2])
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps([clocked(read, file, place) for file, place in json.loads(line)]), flush=True)
    os._exit(0)  # some of the tools do not end well


if __name__ == "__main__":
    main()
