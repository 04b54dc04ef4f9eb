"""How a trained network is tested: the protocols."""
