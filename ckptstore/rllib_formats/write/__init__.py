"""From the model of `docs/model.md` to files that RLlib itself reads, one file per layout. Pure."""
