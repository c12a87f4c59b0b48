"""Arrays and dictionaries in, figures and pages out; knows no model and no dataset."""
