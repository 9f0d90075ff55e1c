"""From a checkpoint into live objects and trees: compare everything, then apply, and undo what fails."""
