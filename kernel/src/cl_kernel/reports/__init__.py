"""What finished runs are read for: tables, figures, one HTML page, other libraries' conventions."""
