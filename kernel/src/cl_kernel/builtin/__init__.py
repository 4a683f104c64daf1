"""The kernel's own pieces, offered through the same hooks as everyone's."""
