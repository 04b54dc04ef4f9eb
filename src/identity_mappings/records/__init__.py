"""What an experiment is, and what a run of it leaves behind. Needs neither torch nor YAML."""
