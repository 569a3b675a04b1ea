"""The streams and buckets: their names, definitions and sizes, and how they are created and updated."""
