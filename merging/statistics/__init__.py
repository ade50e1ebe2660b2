"""What two passes over a base and its experts tell about a merge before it is made; see `merging.compare`."""
