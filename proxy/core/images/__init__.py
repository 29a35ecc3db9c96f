"""Image calls: what a customer may ask, and what of it goes up."""
