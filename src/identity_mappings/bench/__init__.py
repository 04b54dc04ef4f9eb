"""How fast a training step is: this project's, what a user would take instead, and the device's bound."""
