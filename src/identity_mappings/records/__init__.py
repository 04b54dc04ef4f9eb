"""What an experiment is, and what a run of it leaves behind."""
