"""A made-up stream to see relearnd work on: no data to download, no two texts alike."""
