"""Tables, statistics and pages made from the results folder. Reports only read."""
