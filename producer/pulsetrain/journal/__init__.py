"""The journal: the append-only file that log() writes and the forwarder reads.

`format` has the layout, `writer` what a training process uses (standard library alone), `reader` what reads it back
(with numpy).
"""
