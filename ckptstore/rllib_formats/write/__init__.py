"""Write the model of ``docs/model.md`` as files that RLlib itself reads, one module per version."""
