"""The services that read the event stream, and the read side over what they store."""
