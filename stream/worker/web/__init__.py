"""The live page and the metrics of a worker, read-only, in a thread of their own."""
