"""What plugins and the kernel agree on: errors, events, streams, protocols, offers, hooks."""
