"""Many runs: tasks, executors, comparison runs."""
