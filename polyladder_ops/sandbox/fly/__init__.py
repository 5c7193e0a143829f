"""A stand-in `fly`: the commands, states and lies of Fly that we depend on, as far as they are known, on this machine."""
