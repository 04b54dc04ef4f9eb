"""How fast a step is: ours, what a user would take instead, and what the device could do at best."""
