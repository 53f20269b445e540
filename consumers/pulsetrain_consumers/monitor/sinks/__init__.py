"""Where alerts go. A sink sends one change of an alert to one place; when, and how often, `notifications` decides."""
