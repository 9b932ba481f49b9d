"""``sparsesam-export``: one file for each command."""
