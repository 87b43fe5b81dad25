"""Methods that are more than two views and a loss."""
