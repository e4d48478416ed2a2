"""Training in a bucket: the run's lock, its working copy and the publishing of its files."""
