"""Problems with known answers, and what the source states of them: for tests and benchmarks alike."""
