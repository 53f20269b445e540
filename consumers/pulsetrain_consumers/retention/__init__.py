"""What is not kept: runs that are deleted, projects whose data is kept for a time, and copies of what goes."""
