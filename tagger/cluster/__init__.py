"""Jobs on a Ray cluster: submit, list, follow, stop."""
