"""Small pure detectors: numbers in, findings out.

A detector is a dataclass. Its parameters are fields with defaults; its state is fields that the constructor does not
take (`init=False`), of plain numbers, strings, lists and dicts, so that `remembering` can store and restore any of
them. It has no clock, does no I/O, and says only what is new: a finding when trouble begins, another when it is over.
"""
