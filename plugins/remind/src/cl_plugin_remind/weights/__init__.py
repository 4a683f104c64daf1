"""Weight and buffer files, the authors' and ours."""
