"""The embedded text-to-video model's own grammar, renderer, checker and components."""
