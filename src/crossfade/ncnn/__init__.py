"""ncnn's files, read, shown, turned into a trainable module, and written."""
