"""From an archive or a folder of pictures to batches of pixels."""
