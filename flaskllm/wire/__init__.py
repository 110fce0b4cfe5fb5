"""What the bytes look like at each door: schemas and translation, pure."""
