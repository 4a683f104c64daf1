"""Published weights: their names mapped onto ours."""
