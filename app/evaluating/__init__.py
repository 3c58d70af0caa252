"""`cooc evaluate`: the work, and its tables, pictures and pages."""
