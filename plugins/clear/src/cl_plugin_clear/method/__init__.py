"""What is trained: the classifier bucket by bucket with its memories and baselines, MoCo, linear evaluation."""
