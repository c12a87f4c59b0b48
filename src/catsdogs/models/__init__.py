"""The networks, their pretrained weights, and a model's file."""
