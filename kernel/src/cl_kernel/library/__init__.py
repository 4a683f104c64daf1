"""The kernel's own pieces, offered through the same hooks as any plugin's."""
