"""What Makefile calls besides the command."""
