"""Messages that were put aside: finding them, looking into them, sending them again, dropping them."""
