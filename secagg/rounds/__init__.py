"""One round of a job, for each role: training, attempts, voids, evidence."""
