"""A talking face: prepared from video, trained, judged, driven by speech, exported."""
