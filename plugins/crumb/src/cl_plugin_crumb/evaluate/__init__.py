"""Scores, the csv files of the paper's repository, statistics and figures."""
