"""What runs inside an image build, stage by stage: standard library only.

`dcf function build` puts this package and the watcher into the build's context.
Its first stage runs it with that stage's Python; the later ones with the
interpreter that the first stage packed, so the base need not have a Python.
"""
