"""Images and labels, checked by hash, and the order and views in which training sees them."""
