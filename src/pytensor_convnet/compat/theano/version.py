"""``theano.version``: the last release of Theano whose names are mirrored."""

version = full_version = short_version = "1.0.5"
