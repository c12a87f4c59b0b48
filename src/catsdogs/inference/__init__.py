"""What a trained model is used for: predict, explain, export, the web page."""
