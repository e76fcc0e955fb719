"""The test suite; ``tests.counts`` says how often a test repeats."""
