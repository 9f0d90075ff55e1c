"""One module or package for each framework. They use the public nouns, and nothing uses them."""
