"""What stands behind `pulsetrain.init()` and the run that it returns. Nothing here is public; `pulsetrain` is."""
