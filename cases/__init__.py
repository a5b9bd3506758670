"""Problems with known answers, and the statements of the source about them; for tests and benchmarks."""
