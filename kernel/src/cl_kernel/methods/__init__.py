"""Continual-learning methods, each in the file named after it: formula, source, settings, losses and learner.

Importing a method imports no deep-learning library; building one does. ``base`` holds what all share,
``seen_classes`` the score columns of classes, ``exemplar_sets`` chosen examples of each class, ``penalty`` quadratic
penalties, ``gradients`` gradients as vectors, ``isolation`` a network of which every task has a part to itself.
"""
