"""One run: settings, plan, resources, the loop between stages, scoring, resume."""
