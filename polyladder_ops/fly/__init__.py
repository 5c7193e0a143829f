"""All that speaks to Fly: the one caller of flyctl, machines as values, the shape that must come back."""
