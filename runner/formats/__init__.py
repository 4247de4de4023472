"""File formats of the field: bytes and text to the model and back."""
