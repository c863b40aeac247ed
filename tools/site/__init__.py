"""What docs/conf.py adds to Sphinx: links between the site and the repository, and tables made from JSON Schemas."""
