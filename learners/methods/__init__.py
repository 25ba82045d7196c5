"""Ways to learn, one a file: plugins of Avalanche's for `learners.strategy`. `names` says which go together."""
