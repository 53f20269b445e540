"""The HTML report: what runs did, as one file that opens offline."""
